/* known SCENARIO PAGES: forks over one mapping whose copies and reuses follow from arithmetic.
 *
 * The mapping lies alone at BASE, so the kernel joins it with no neighbour. Everything runs on one CPU: a page
 * in another CPU's LRU batch holds an extra reference, which turns a reuse into a copy (kernel-cow.md R2.3).
 * Pages are stored to, never loaded first: a load would bring in the zero page, and the store then shows as a fault.
 * With KNOWN_GATED in the environment, every fork is told on stdout, and goes on when stdin has a byte.
 * Turns are taken through pipes: a child acts when it is given one byte and answers with one.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BASE ((char *)0x200000000000)
#define PAGE 4096UL
#define MOST 16

static size_t n;
static int n_children;
static int gated;
static struct { pid_t pid; int go, done; } child[MOST];

static void write_pages(char *at, size_t count) {
    for (size_t i = 0; i < count; i++) *(volatile char *)(at + i * PAGE) = 1;
}

static void read_pages(char *at, size_t count) {
    for (size_t i = 0; i < count; i++) (void)*(volatile char *)(at + i * PAGE);
}

/* A file is mapped from its second page on: so out of step that no part of it is mapped as a huge page. */
static char *map(int flags, int fd) {
    char *at = mmap(BASE, n * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, fd, fd < 0 ? 0 : PAGE);
    if (at != BASE) err(2, "mmap");
    return at;
}

static char *filled(void) {
    char *at = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    write_pages(at, n);
    return at;
}

static char byte(int fd) {
    char c = 0;
    return read(fd, &c, 1) == 1 ? c : 0;
}

/* Let the test see that the recorder has looked at the child, so that nothing depends on who is faster. */
static void met(pid_t pid) {
    if (!gated) return;
    printf("forked %d\n", pid);
    byte(0);
}

/* Fork a child that does `act` when told to, and then waits for its end. */
static int start(void (*act)(void)) {
    int go[2], done[2];
    if (pipe2(go, O_CLOEXEC) || pipe2(done, O_CLOEXEC)) err(2, "pipe");
    int k = n_children++;
    pid_t pid = fork();
    if (pid < 0) err(2, "fork");
    if (pid == 0) {
        /* Elder siblings see the end of their pipe when the parent closes it: no copy of it may live here. */
        for (int i = 0; i < k; i++) close(child[i].go);
        close(go[1]);
        close(done[0]);
        if (byte(go[0])) act();
        if (write(done[1], "d", 1) != 1) _exit(3);
        byte(go[0]);
        _exit(0);
    }
    close(go[0]);
    close(done[1]);
    child[k].pid = pid;
    child[k].go = go[1];
    child[k].done = done[0];
    met(pid);
    return k;
}

static void turn(int k) {
    if (write(child[k].go, "g", 1) != 1) err(2, "go");
    byte(child[k].done);
}

static void end(int k) {
    int status;
    close(child[k].go);
    if (waitpid(child[k].pid, &status, 0) < 0 || status) errx(2, "child %d ended with %d", k, status);
}

static void write_all(void) { write_pages(BASE, n); }
static void write_half(void) { write_pages(BASE, n / 2); }
static void nothing(void) {}
static void unmap_half(void) { if (munmap(BASE + n / 2 * PAGE, n / 2 * PAGE)) _exit(4); }
static void discard_half(void) { if (madvise(BASE + n / 2 * PAGE, n / 2 * PAGE, MADV_DONTNEED)) _exit(4); }
static void exec_true(void) { execl("/bin/true", "true", (char *)NULL); _exit(4); }
static void read_all(void) { read_pages(BASE, n); }

static int source;
static void kernel_writes_half(void) {
    if (pread(source, BASE, n / 2 * PAGE, 0) != (ssize_t)(n / 2 * PAGE)) _exit(4);
}

static void grandparent(void) {
    int k = start(write_all);
    turn(k);
    write_all();
    end(k);
}

static void one(void (*act)(void)) {
    filled();
    int k = start(act);
    turn(k);
    write_all();
    end(k);
}

static void parent_first(void) {
    filled();
    int k = start(write_half);
    write_all();
    turn(k);
    end(k);
}

static void three(void) {
    filled();
    for (int i = 0; i < 3; i++) start(write_all);
    for (int i = 0; i < 3; i++) turn(i);
    write_all();
    for (int i = 0; i < 3; i++) end(i);
}

static void child_exits(void) {
    filled();
    end(start(nothing));
    write_all();
}

/* Each page has page tables of its own: they take far longer to walk, and to take down, than the pages to write. */
static void sparse_child_exits(void) {
    size_t step = (8UL << 40) / n / PAGE * PAGE;
    char *at = mmap(BASE, n * step, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != BASE) err(2, "mmap");
    for (size_t i = 0; i < n; i++) *(volatile char *)(at + i * step) = 1;
    end(start(nothing));
    for (size_t i = 0; i < n; i++) *(volatile char *)(at + i * step) = 1;
}

static int file_of(const char *path) {
    int fd = open(path, O_RDWR);
    if (fd < 0) err(2, "%s", path);
    return fd;
}

/* Half the pages are the parent's own copies by the fork; the rest are still the file's, and read. */
static void private_file(const char *path) {
    char *at = map(MAP_PRIVATE, file_of(path));
    read_pages(at, n);
    write_pages(at, n / 2);
    int k = start(write_all);
    turn(k);
    end(k);
}

static void shared_memory(void) {
    write_pages(map(MAP_SHARED | MAP_ANONYMOUS, -1), n);
    int k = start(write_all);
    turn(k);
    write_all();
    end(k);
}

/* One written page makes fork copy the page table; the others are the zero page. */
static void zero_page(void) {
    char *at = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    read_pages(at, n);
    write_pages(at, 1);
    int k = start(write_all);
    turn(k);
    end(k);
}

static void vforked(void) {
    filled();
    pid_t pid = vfork();
    if (pid == 0) {
        write_half();
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    write_all();
}

int main(int argc, char **argv) {
    cpu_set_t cpus;
    if (argc < 3) errx(2, "known SCENARIO PAGES [FILE]");
    sched_getaffinity(0, sizeof cpus, &cpus);
    int first = 0;
    while (!CPU_ISSET(first, &cpus)) first++;
    CPU_ZERO(&cpus);
    CPU_SET(first, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus)) err(2, "sched_setaffinity");
    n = strtoul(argv[2], NULL, 10);
    gated = getenv("KNOWN_GATED") != NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *s = argv[1];
    if (!strcmp(s, "child-first")) one(write_half);
    else if (!strcmp(s, "parent-first")) parent_first();
    else if (!strcmp(s, "three-children")) three();
    else if (!strcmp(s, "grandchild")) one(grandparent);
    else if (!strcmp(s, "child-exits")) child_exits();
    else if (!strcmp(s, "sparse-child-exits")) sparse_child_exits();
    else if (!strcmp(s, "child-unmaps")) one(unmap_half);
    else if (!strcmp(s, "child-discards")) one(discard_half);
    else if (!strcmp(s, "child-reads")) one(read_all);
    else if (!strcmp(s, "child-execs")) one(exec_true);
    else if (!strcmp(s, "private-file") && argc == 4) private_file(argv[3]);
    else if (!strcmp(s, "shared-memory")) shared_memory();
    else if (!strcmp(s, "zero-page")) zero_page();
    else if (!strcmp(s, "vfork")) vforked();
    else if (!strcmp(s, "kernel-writes") && argc == 4) {
        source = file_of(argv[3]);
        one(kernel_writes_half);
    } else errx(2, "no scenario %s", s);
    puts("done");
    return 0;
}
