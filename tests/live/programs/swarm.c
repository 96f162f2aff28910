/* swarm COUNT [again]: COUNT children one after another, each of which exits at once. With "again", one child
 * more is given the pid of the last: ns_last_pid makes the kernel hand it out anew. Prints the pids of the last
 * two children. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t brief(void) {
    pid_t pid = fork();
    if (pid < 0) err(2, "fork");
    if (pid == 0) _exit(0);
    if (waitpid(pid, NULL, 0) != pid) err(2, "waitpid");
    return pid;
}

int main(int argc, char **argv) {
    if (argc < 2) errx(2, "swarm COUNT [again]");
    pid_t last = 0, before = 0;
    for (long i = atol(argv[1]); i > 0; i--) {
        before = last;
        last = brief();
    }
    if (argc > 2) {
        int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || dprintf(fd, "%d", last - 1) < 0) err(2, "ns_last_pid");
        close(fd);
        before = last;
        last = brief();
    }
    printf("%d %d\n", before, last);
    return 0;
}
