/* Python lines at the very instruction that breaks the sharing.
 *
 * A perf event of this process raises SIGTRAP in the thread that took a page fault, when the fault is over and before
 * the instruction that wrote goes on. Children and threads inherit it; exec ends it. The handler notes the address, the
 * time, and for the innermost frames of the thread's Python stack which code and how far in it, in a file that all
 * these processes map and share. What a code object is called is copied once, when it is first met.
 *
 * The handler allocates nothing, takes no lock and not the GIL, calls nothing but gettid and clock_gettime, and reads of
 * the interpreter only what belongs to its own thread. A fault that it takes itself, in its file, comes back as a
 * trap that the kernel calls asynchronous, and is passed over.
 *
 *   file:     head (4 KiB), codes, text, traps
 *   code:     u64 address, u64 its name's address, u32 first line, u32 whether it is whole, u64 place in text + 1
 *   trap:     u64 address, u64 time, u32 thread, u32 frames, 4 times (u32 code, u32 bytes into it), u64 whether it is whole
 *   text:     of a code: file, name, line table, each u32 bytes, u32 bytes a letter, then the bytes
 *
 * The file has all its blocks from the beginning: where the disk is full there are no lines, and nobody is hurt. So it
 * has its pages in memory: what the handler writes allocates none, which would look like copies.
 */
#define _GNU_SOURCE
#define Py_LIMITED_API 0x030b0000
#include "lines.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdatomic.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define AT(type, object, offset) (*(type *)((char *)(object) + (offset)))

#define FRAMES 4
#define CODES (1u << 15)
#define TEXT_BYTES ((size_t)8 << 20)
#define LEAST_TRAPS (1u << 16)
#define MOST_TRAPS (1u << 20)
#define TRAPS_PER_PAGE 4 /* that the process has in memory when it first forks */
#define MOST_NAME 1000
#define MOST_TABLE 65536
#define NO_CODE UINT32_MAX
#define PROBES 64
#define MOST_EVENTS 256 /* threads that there are at the first fork, and have lines */

#ifndef TRAP_PERF
#define TRAP_PERF 6
#endif
#define SI_PERF_FLAGS 36 /* bytes into siginfo_t, which older headers do not name */
#define ASYNCHRONOUS 1

struct head {
	char magic[8];
	uint32_t minor, code_bytes; /* bytes of a code object before its instructions */
	uint64_t room; /* for so many traps */
	_Atomic uint64_t traps, text;
	uint64_t over; /* set by the recorder: nobody wants to know any more */
	char rest[4096 - 48];
};

struct code {
	_Atomic uint64_t key;
	uint64_t name;
	uint32_t first_line;
	_Atomic uint32_t ready;
	uint64_t text; /* where its text begins; 0: there was no room */
};

struct trap {
	uint64_t address, time_ns;
	uint32_t thread, frames;
	struct {
		uint32_t code, at;
	} stack[FRAMES];
	uint64_t filled;
};

static struct shared {
	struct head head;
	struct code codes[CODES];
	char text[TEXT_BYTES];
	struct trap traps[];
} *shared;

/* --- where things are in this version --- */

static struct {
	int minor;
	long thread_id;	    /* in a thread state; -1: not needed */
	long frame;	    /* in a thread state: the current frame, or what it is reached by */
	long through;	    /* in that: the current frame; -1: it is the frame */
	long code, previous, instruction, owner; /* in a frame */
	long file, name, table, first_line;	 /* in a code object */
	uint64_t code_type;
	uint32_t code_bytes;
} layout;

extern PyThreadState *_PyThreadState_UncheckedGet(void) __attribute__((weak));
extern PyThreadState *PyThreadState_GetUnchecked(void) __attribute__((weak));

static void *thread_state(void)
{
	if (PyThreadState_GetUnchecked)
		return PyThreadState_GetUnchecked();
	return _PyThreadState_UncheckedGet ? _PyThreadState_UncheckedGet() : NULL;
}

/* Through the kernel, which refuses where a plain load would crash. */
static uint64_t word(const void *at)
{
	uint64_t value = 0;
	struct iovec here = {&value, sizeof value}, there = {(void *)at, sizeof value};

	return at && process_vm_readv(getpid(), &here, 1, &there, 1, 0) == sizeof value ? value : 0;
}

static int finds(char *frame, PyObject *code)
{
	return frame && word(frame + layout.code) == (uint64_t)code;
}

const char *lines_prepare(int minor, PyObject *code, PyObject *file, PyObject *name, PyObject *table)
{
	char *state = thread_state();
	long at;

	layout.minor = minor;
	layout.code = minor == 11 ? 32 : 0;
	layout.previous = minor == 11 ? 48 : 8;
	layout.instruction = 56;
	layout.owner = minor == 11 ? 69 : 70;
	layout.file = 112;
	layout.name = 128;
	layout.table = 136;
	layout.first_line = minor == 11 ? 72 : 68;
	layout.thread_id = layout.frame = -1;
	layout.through = minor == 11 ? 8 : minor == 12 ? 0 : -1;
	layout.code_type = AT(uint64_t, code, 8);
	layout.code_bytes = (uint32_t)AT(uint64_t, AT(void *, code, 8), 32);
	if (!state)
		return "the interpreter does not tell its threads apart";
	if (word((char *)code + layout.file) != (uint64_t)file || word((char *)code + layout.name) != (uint64_t)name ||
	    word((char *)code + layout.table) != (uint64_t)table)
		return "code objects have another layout";
	for (at = 8; at < 256 && layout.frame < 0; at += 8) {
		char *found = (char *)word(state + at);

		if (layout.through >= 0)
			found = found ? (char *)word(found + layout.through) : NULL;
		if (finds(found, code))
			layout.frame = at;
	}
	if (layout.frame < 0)
		return "the current frame was not found";
	if (minor > 11)
		return NULL;
	/* Before 3.12 the interpreter tells who has the GIL, which need not be the thread that asks. */
	for (at = 8; at < 256 && layout.thread_id < 0; at += 8)
		if (word(state + at) == (uint64_t)pthread_self())
			layout.thread_id = at;
	return layout.thread_id < 0 ? "the thread's own id was not found" : NULL;
}

/* --- in the handler --- */

static uint64_t copy_text(char *to, PyObject *text)
{
	uint32_t state = AT(uint32_t, text, 32), width = state >> 2 & 7;
	uint64_t length = AT(uint64_t, text, 16);
	int compact = state >> 5 & 1, ascii = state >> 6 & 1;
	long at = layout.minor < 12 ? (ascii ? 48 : 72) : (ascii ? 40 : 56);

	if (!compact || (width != 1 && width != 2 && width != 4))
		length = 0;
	if (length > MOST_NAME)
		length = MOST_NAME;
	AT(uint32_t, to, 0) = (uint32_t)(length * width);
	AT(uint32_t, to, 4) = width;
	memcpy(to + 8, (char *)text + at, length * width);
	return 8 + length * width;
}

static uint64_t copy_table(char *to, PyObject *table)
{
	uint64_t length = AT(uint64_t, table, 16);

	if (length > MOST_TABLE)
		length = 0;
	AT(uint32_t, to, 0) = (uint32_t)length;
	AT(uint32_t, to, 4) = 1;
	memcpy(to + 8, (char *)table + 32, length);
	return 8 + length;
}

static void describe(struct code *entry, char *code)
{
	uint64_t room = 3 * 8 + 2 * 4 * MOST_NAME + MOST_TABLE;
	PyObject *table = AT(PyObject *, code, layout.table);
	uint64_t wanted = 3 * 8 + 2 * 4 * MOST_NAME + AT(uint64_t, table, 16) + 8, at;
	char *to;

	wanted = (wanted < room ? wanted : room) & ~(uint64_t)7;
	at = atomic_fetch_add(&shared->head.text, wanted);
	if (at + wanted <= TEXT_BYTES) {
		to = shared->text + at;
		to += copy_text(to, AT(PyObject *, code, layout.file));
		to += copy_text(to, AT(PyObject *, code, layout.name));
		copy_table(to, table);
		entry->text = at + 1;
	}
	atomic_store(&entry->ready, 1);
}

static uint32_t code_number(char *code)
{
	uint64_t key = (uint64_t)code, name = AT(uint64_t, code, layout.name);
	uint32_t first_line = AT(uint32_t, code, layout.first_line), probe;
	uint32_t slot = (uint32_t)(key * 0x9E3779B97F4A7C15ULL >> 49);

	for (probe = 0; probe < PROBES; probe++, slot = (slot + 1) & (CODES - 1)) {
		struct code *entry = &shared->codes[slot];
		uint64_t found = atomic_load(&entry->key);

		if (!found && atomic_compare_exchange_strong(&entry->key, &found, key)) {
			entry->name = name;
			entry->first_line = first_line;
			describe(entry, code);
			return slot;
		}
		if (found == key && entry->name == name && entry->first_line == first_line)
			return slot;
	}
	return NO_CODE;
}

static uint32_t note_stack(struct trap *trap)
{
	char *state = thread_state(), *frame;
	uint32_t n = 0, left;

	if (!state || (layout.thread_id >= 0 && AT(uint64_t, state, layout.thread_id) != (uint64_t)pthread_self()))
		return 0;
	frame = AT(char *, state, layout.frame);
	if (frame && layout.through >= 0)
		frame = AT(char *, frame, layout.through);
	for (left = 4 * FRAMES; frame && left && n < FRAMES; left--, frame = AT(char *, frame, layout.previous)) {
		char *code = AT(char *, frame, layout.code);

		/* From 3.12 on there are frames of C between, whose code is none. */
		if (!code || AT(uint64_t, code, 8) != layout.code_type ||
		    (layout.minor > 11 && AT(char, frame, layout.owner) == 3))
			continue;
		trap->stack[n].code = code_number(code);
		trap->stack[n++].at = (uint32_t)(AT(char *, frame, layout.instruction) - code);
	}
	return n;
}

static int events[MOST_EVENTS], n_events;

/* No more traps, in all processes that have the events: the recording is over, or the file full. A program that has closed
 * our descriptors may have others by these numbers; what is no event refuses the request. */
static void end_events(void)
{
	int i;

	for (i = 0; i < n_events; i++)
		ioctl(events[i], PERF_EVENT_IOC_DISABLE, 0);
}

static void on_trap(int number, siginfo_t *info, void *context)
{
	int before = errno;
	uint64_t at;
	struct trap *trap;
	struct timespec now;

	(void)context;
	if (info->si_code != TRAP_PERF) { /* nothing of ours: as if we were not there */
		signal(number, SIG_DFL);
		raise(number);
		return;
	}
	if (AT(uint32_t, info, SI_PERF_FLAGS) & ASYNCHRONOUS)
		return;
	at = shared->head.over ? shared->head.room : atomic_fetch_add(&shared->head.traps, 1);
	if (at >= shared->head.room) {
		end_events();
		errno = before;
		return;
	}
	trap = &shared->traps[at];
	clock_gettime(CLOCK_MONOTONIC, &now);
	trap->address = (uint64_t)info->si_addr;
	trap->time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	trap->thread = (uint32_t)syscall(SYS_gettid);
	trap->frames = note_stack(trap);
	trap->filled = 1;
	errno = before;
}

/* --- to begin --- */

static int open_event(int thread)
{
	int fd;
	struct perf_event_attr attributes;

	memset(&attributes, 0, sizeof attributes);
	attributes.type = PERF_TYPE_SOFTWARE;
	attributes.size = sizeof attributes;
	attributes.config = PERF_COUNT_SW_PAGE_FAULTS;
	attributes.sample_period = 1;
	attributes.sample_type = PERF_SAMPLE_ADDR;
	attributes.inherit = 1;
	attributes.exclude_kernel = 1;
	attributes.exclude_hv = 1;
	attributes.remove_on_exec = 1;
	attributes.sigtrap = 1;
	if (n_events == MOST_EVENTS)
		return -1;
	fd = (int)syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd >= 0)
		events[n_events++] = fd;
	return fd;
}

static int open_for_all_threads(void)
{
	DIR *threads = opendir("/proc/self/task");
	struct dirent *entry;
	int own = (int)syscall(SYS_gettid), opened = open_event(0);

	while (threads && (entry = readdir(threads))) {
		int thread = atoi(entry->d_name);

		if (thread && thread != own)
			open_event(thread);
	}
	if (threads)
		closedir(threads);
	return opened;
}

static uint64_t room_for_traps(void)
{
	char text[64] = "";
	unsigned long all, resident = 0;
	uint64_t room = LEAST_TRAPS;
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0 && sscanf(text, "%lu %lu", &all, &resident) != 2)
		resident = 0;
	if (fd >= 0)
		close(fd);
	while (room < resident * TRAPS_PER_PAGE && room < MOST_TRAPS)
		room *= 2;
	return room;
}

static int is_traced(void)
{
	char text[1500] = "", *line;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC), traced = 0;

	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0 && (line = strstr(text, "TracerPid:")))
		traced = atoi(line + 10) != 0;
	if (fd >= 0)
		close(fd);
	return traced;
}

const char *lines_begin(const char *path)
{
	struct sigaction ours, theirs;
	uint64_t room = room_for_traps(), bytes = sizeof *shared + room * sizeof(struct trap);
	int fd;

	if (shared)
		return NULL;
	if (layout.frame <= 0)
		return "not prepared";
	if (sigaction(SIGTRAP, NULL, &theirs) || theirs.sa_handler != SIG_DFL)
		return "the program handles SIGTRAP itself";
	if (is_traced())
		return "a debugger would get the signals";
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return "the file of lines could not be made";
	if (posix_fallocate(fd, 0, (off_t)bytes) ||
	    (shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0)) == MAP_FAILED) {
		shared = NULL;
		close(fd);
		unlink(path);
		return "there was no room for the file of lines";
	}
	close(fd);
	shared->head.room = room;
	memcpy(shared->head.magic, "COWLIN1", 8);
	shared->head.minor = (uint32_t)layout.minor;
	shared->head.code_bytes = layout.code_bytes;
	memset(&ours, 0, sizeof ours);
	ours.sa_sigaction = on_trap;
	ours.sa_flags = SA_SIGINFO | SA_RESTART;
	sigaction(SIGTRAP, &ours, NULL);
	if (open_for_all_threads() < 0) {
		sigaction(SIGTRAP, &theirs, NULL);
		unlink(path);
		return "the kernel refuses events with signals (Linux 5.13, perf_event_paranoid)";
	}
	return NULL;
}
