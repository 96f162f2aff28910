/* rounds PAGES [COUNT]: copies on demand. For each byte on stdin it forks a child that writes all PAGES (so many
 * copies) and exits, writes them itself (so many reuses), and answers with a line. At the end of stdin it says
 * "bye" and exits with 7. With COUNT, it does so many rounds by itself first. On one CPU, as in known.c.
 *
 *   r  one round      s  a child that exits at once, and nobody writes      n  take a hostile name
 */
#define _GNU_SOURCE
#include <err.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BASE ((char *)0x200000000000)
#define PAGE 4096UL

static size_t n;

static void write_all(void) {
    for (size_t i = 0; i < n; i++) *(volatile char *)(BASE + i * PAGE) = 1;
}

static void round_of(int writes) {
    pid_t pid = fork();
    if (pid < 0) err(2, "fork");
    if (pid == 0) {
        if (writes) write_all();
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    if (writes) write_all();
}

int main(int argc, char **argv) {
    cpu_set_t cpus;
    if (argc < 2) errx(2, "rounds PAGES [COUNT]");
    sched_getaffinity(0, sizeof cpus, &cpus);
    int first = 0;
    while (!CPU_ISSET(first, &cpus)) first++;
    CPU_ZERO(&cpus);
    CPU_SET(first, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus)) err(2, "sched_setaffinity");
    n = strtoul(argv[1], NULL, 10);
    char *at = mmap(BASE, n * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != BASE) err(2, "mmap");
    write_all();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (long i = argc > 2 ? atol(argv[2]) : 0; i > 0; i--) round_of(1);
    printf("ready %d\n", getpid());
    char c;
    while (read(0, &c, 1) == 1) {
        if (c == 'n') prctl(PR_SET_NAME, "\x1b[31m\nx\xff\xfe");
        else round_of(c == 'r');
        printf("done %c\n", c);
    }
    puts("bye");
    return 7;
}
