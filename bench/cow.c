/* The worst case for a recorder: a program that does nothing but copy-on-write faults.
 *
 *   cow PAGES ROUNDS [reuse]
 *
 * Each round forks a child that waits, writes every page (each is copied), and lets the child end. With
 * "reuse" the child ends first, so that no write copies anything: the cheapest fault there is. Prints the
 * seconds from the first to the last write, over all rounds.
 *
 * A virtual machine may hand free memory back to its host (free page reporting), and then the first write to a
 * page costs a fault of the host as well: up to half as much again, depending on who used the memory last and
 * how long ago. So all memory that the rounds will need is written and freed before the first of them.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double write_pages(char *memory, long first, long last)
{
	double begin = now();

	for (long page = first; page < last; page++)
		memory[page * 4096] = 2;
	return now() - begin;
}

int main(int argc, char **argv)
{
	long pages = argc > 1 ? atol(argv[1]) : 131072;
	int rounds = argc > 2 ? atoi(argv[2]) : 4;
	int reuse = argc > 3;
	char *memory = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *warm;
	double spent = 0;

	if (memory == MAP_FAILED)
		return 1;
	warm = mmap(NULL, 3 * pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (warm == MAP_FAILED)
		return 1;
	write_pages(warm, 0, 3 * pages);
	munmap(warm, 3 * pages * 4096);
	write_pages(memory, 0, pages);
	while (rounds--) {
		int gate[2];
		char byte;
		pid_t child;

		if (pipe(gate) || (child = fork()) < 0)
			return 1;
		if (!child) {
			close(gate[1]);
			_exit(read(gate[0], &byte, 1) != 0);
		}
		close(gate[0]);
		if (!reuse)
			spent += write_pages(memory, 0, pages);
		close(gate[1]);
		waitpid(child, NULL, 0);
		if (reuse)
			spent += write_pages(memory, 0, pages);
	}
	printf("%.6f\n", spent);
	return 0;
}
