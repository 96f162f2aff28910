/* What only a look inside a CPython process can tell: which object lies where, just before a fork.
 *
 * The census walks the collector's lists and what their objects refer to, and writes a row of 16 bytes for each
 * object to a file of the recording. It reads memory and calls tp_traverse, which reads too; it takes no reference
 * and writes to no object, since a reference count written is a shared page copied. What it needs for itself it
 * maps and unmaps, so that the heap stays as it was. No contents go out: addresses, sizes and names of types.
 *
 * Compiled for the stable ABI. What that hides is read at offsets that CPython 3.11 to 3.13 have in common on 64-bit
 * machines, checked where it can be (`find_generations`); any other interpreter is refused by the Python side.
 *
 *   file:    struct head, rows, names of the types (each: u16 length, bytes)
 *   row:     u64 address, u32 bytes, u16 type, u8 kind, u8 bytes before the address that belong to it
 */
#define _GNU_SOURCE
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "lines.h"

enum kind { OBJECT, LIST_ITEMS, DICT_KEYS, DICT_VALUES, SET_TABLE, FREE, TYPE };

struct head {
	char magic[8];
	uint32_t pid, n_types;
	uint64_t time_ns, spent_ns, n_rows;
};

struct row {
	uint64_t address;
	uint32_t bytes;
	uint16_t type;
	uint8_t kind, before;
};

/* --- CPython's structures, as far as they are needed --- */

#define AT(type, object, offset) (*(type *)((char *)(object) + (offset)))

enum {
	OB_TYPE = 8,
	OB_SIZE = 16,
	TP_NAME = 24,
	TP_BASICSIZE = 32,
	TP_ITEMSIZE = 40,
	TP_FLAGS = 168,
	TP_TRAVERSE = 184,
	TP_IS_GC = 328,
	STATIC_TYPE = 408, /* bytes of a type that is no object of the heap */
	GC_HEAD = 16,
	GENERATION = 24,
	LIST_ITEM = 24,
	LIST_ALLOCATED = 32,
	DICT_KEYS_AT = 32,
	DICT_VALUES_AT = 40,
	KEYS_LOG2_SIZE = 8,
	KEYS_LOG2_INDEX_BYTES = 9,
	KEYS_KIND = 10,
	KEYS_N_ENTRIES = 24,
	KEYS_INDICES = 32,
	SET_MASK = 32,
	SET_TABLE_AT = 40,
	SET_SMALL_TABLE = 64,
};

#define INLINE_VALUES (1UL << 2)
#define MANAGED_WEAKREF (1UL << 3)
#define MANAGED_DICT (1UL << 4)
#define HEAP_TYPE (1UL << 9)
#define HAVE_GC (1UL << 14)
#define LONG_SUBCLASS (1UL << 24)
#define LIST_SUBCLASS (1UL << 25)
#define UNICODE_SUBCLASS (1UL << 28)
#define DICT_SUBCLASS (1UL << 29)
#define TYPE_SUBCLASS (1UL << 31)

static int minor; /* of CPython 3 */

/* --- memory of our own --- */

/* Faulted in by the call, so that no fault of ours is in the recording. */
static void *fresh(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

#define SLAB ((size_t)4 << 20)
#define BITMAP ((size_t)8192) /* a bit for each 16 bytes of 1 MiB */
#define REGIONS (1 << 17) /* half of them filled: 64 GiB of objects */
#define TYPES (1 << 16)
#define MOST_TYPES 65535
#define ROWS (1 << 15)

struct census {
	int fd, failed;
	char *slab;
	size_t slab_left;
	void *slabs; /* a list: each slab begins with a pointer to the one before */
	struct region {
		uint64_t number;
		uint64_t *bits;
	} *regions, *last;
	uint32_t n_regions;
	struct type {
		PyObject *type;
		uint32_t index;
	} *types;
	PyObject **by_index;
	uint32_t n_types;
	struct row *rows;
	uint32_t n_waiting;
	uint64_t n_rows;
	PyObject **stack;
	size_t depth, room;
};

static void *take(struct census *c, size_t bytes)
{
	if (bytes > c->slab_left) {
		void **slab = fresh(SLAB);

		if (!slab)
			return NULL;
		*slab = c->slabs;
		c->slabs = slab;
		c->slab = (char *)slab + 64;
		c->slab_left = SLAB - 64;
	}
	c->slab_left -= bytes;
	c->slab += bytes;
	return c->slab - bytes;
}

/* 1 if the address was not seen before. */
static int first_time(struct census *c, void *address)
{
	uint64_t at = (uint64_t)address, number = (at >> 20) + 1, bit = at >> 4 & 0xffff, mask;
	struct region *region = c->last;

	if (!region || region->number != number) {
		uint32_t slot = (uint32_t)(number * 0x9E3779B97F4A7C15ULL >> 47);

		while (c->regions[slot].number && c->regions[slot].number != number)
			slot = (slot + 1) & (REGIONS - 1);
		region = &c->regions[slot];
		if (!region->number) {
			if (c->n_regions > REGIONS / 2 || !(region->bits = take(c, BITMAP))) {
				c->failed = 1;
				return 0;
			}
			region->number = number;
			c->n_regions++;
		}
		c->last = region;
	}
	mask = 1ULL << (bit & 63);
	if (region->bits[bit >> 6] & mask)
		return 0;
	region->bits[bit >> 6] |= mask;
	return 1;
}

static uint16_t type_index(struct census *c, PyObject *type)
{
	uint32_t slot = (uint32_t)((uint64_t)type * 0x9E3779B97F4A7C15ULL >> 48);

	while (c->types[slot].type && c->types[slot].type != type)
		slot = (slot + 1) & (TYPES - 1);
	if (!c->types[slot].type) {
		if (c->n_types == MOST_TYPES / 2)
			return MOST_TYPES;
		c->types[slot].type = type;
		c->types[slot].index = c->n_types;
		c->by_index[c->n_types++] = type;
	}
	return (uint16_t)c->types[slot].index;
}

static void flush(struct census *c)
{
	size_t bytes = c->n_waiting * sizeof(struct row);

	if (!c->failed && write(c->fd, c->rows, bytes) != (ssize_t)bytes)
		c->failed = 1;
	c->n_rows += c->n_waiting;
	c->n_waiting = 0;
}

static void note(struct census *c, void *address, size_t bytes, uint16_t type, enum kind kind, unsigned before)
{
	c->rows[c->n_waiting++] = (struct row){
		.address = (uint64_t)address,
		.bytes = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes,
		.type = type,
		.kind = (uint8_t)kind,
		.before = (uint8_t)before,
	};
	if (c->n_waiting == ROWS)
		flush(c);
}

/* --- how large things are --- */

static size_t text_bytes(PyObject *text)
{
	size_t length = AT(size_t, text, 16), ascii = minor < 12 ? 48 : 40, wide = minor < 12 ? 72 : 56;
	uint32_t state = AT(uint32_t, text, 32), width = state >> 2 & 7;

	if (!(state >> 5 & 1)) /* not compact: its letters lie elsewhere */
		return wide + 8;
	return (state >> 6 & 1 ? ascii : wide) + (length + 1) * width;
}

static size_t object_bytes(PyObject *object, PyObject *type, unsigned long flags)
{
	size_t basic = AT(size_t, type, TP_BASICSIZE), item = AT(size_t, type, TP_ITEMSIZE);
	Py_ssize_t n;

	if (flags & UNICODE_SUBCLASS)
		return text_bytes(object);
	if (flags & INLINE_VALUES && minor >= 13)
		return basic + 8 + AT(uint8_t, object, basic) * sizeof(void *);
	if (flags & TYPE_SUBCLASS && !(AT(unsigned long, object, TP_FLAGS) & HEAP_TYPE))
		return STATIC_TYPE;
	if (!item)
		return basic;
	n = AT(Py_ssize_t, object, OB_SIZE);
	if (flags & LONG_SUBCLASS && minor >= 12)
		n = n >> 3 ? n >> 3 : 1;
	if (AT(PyObject *, object, OB_TYPE) == (PyObject *)&PyBool_Type)
		basic = sizeof(void *) * 3; /* its basic size counts a digit already */
	if (n < 0)
		n = -n;
	return n < (Py_ssize_t)1 << 40 ? (basic + (size_t)n * item + 7) & ~(size_t)7 : basic;
}

static unsigned bytes_before(unsigned long flags)
{
	return (flags & HAVE_GC ? GC_HEAD : 0) + (flags & (MANAGED_DICT | MANAGED_WEAKREF) ? 16 : 0);
}

static int visit(PyObject *object, void *c);

/* The table of a dictionary; its keys, which tp_traverse leaves out where all are strings. */
static void note_keys(struct census *c, char *keys, uint16_t type)
{
	size_t slots, usable, entry, at;
	Py_ssize_t n;
	int text;

	if (!keys || !first_time(c, keys))
		return;
	slots = (size_t)1 << AT(uint8_t, keys, KEYS_LOG2_SIZE);
	text = AT(uint8_t, keys, KEYS_KIND) != 0;
	entry = text ? 16 : 24;
	usable = (slots << 1) / 3;
	at = KEYS_INDICES + ((size_t)1 << AT(uint8_t, keys, KEYS_LOG2_INDEX_BYTES));
	note(c, keys, at + usable * entry, type, DICT_KEYS, 0);
	for (n = AT(Py_ssize_t, keys, KEYS_N_ENTRIES); text && n-- > 0;) {
		PyObject *key = AT(PyObject *, keys, at + (size_t)n * entry);

		if (key)
			visit(key, c);
	}
}

static void note_values(struct census *c, char *values, uint16_t type)
{
	/* Before the values stand their own bytes: how many of these, how many values are used, and a byte for each
	 * value there is room for, filled up to a multiple of 8. So there is room for `before` - 9 at least. */
	size_t before = AT(uint8_t, values, -1), used = AT(uint8_t, values, -2);

	if (minor < 13 && before >= 8 && first_time(c, values)) {
		size_t room = before > 9 && before - 9 > used ? before - 9 : used;

		note(c, values - before, before + room * sizeof(void *), type, DICT_VALUES, 0);
	}
}

/* Blocks of memory that belong to the object and lie elsewhere. */
static void note_parts(struct census *c, PyObject *object, unsigned long flags, uint16_t type)
{
	if (flags & LIST_SUBCLASS) {
		char *items = AT(char *, object, LIST_ITEM);

		if (items)
			note(c, items, AT(size_t, object, LIST_ALLOCATED) * sizeof(void *), type, LIST_ITEMS, 0);
	} else if (flags & DICT_SUBCLASS) {
		char *values = AT(char *, object, DICT_VALUES_AT);

		note_keys(c, AT(char *, object, DICT_KEYS_AT), type);
		if (values)
			note_values(c, values, type);
	} else if (AT(PyObject *, object, OB_TYPE) == (PyObject *)&PySet_Type ||
		   AT(PyObject *, object, OB_TYPE) == (PyObject *)&PyFrozenSet_Type) {
		char *table = AT(char *, object, SET_TABLE_AT);

		if (table != (char *)object + SET_SMALL_TABLE)
			note(c, table, (AT(size_t, object, SET_MASK) + 1) * 16, type, SET_TABLE, 0);
	} else if (flags & MANAGED_DICT && minor == 11) {
		char *values = AT(char *, object, -32);

		if (values)
			note_values(c, values, type);
	} else if (flags & MANAGED_DICT && minor == 12) {
		uintptr_t values = AT(uintptr_t, object, -24);

		if (values & 1) /* marked: not a dictionary, but its values alone */
			note_values(c, (char *)values + 1, type);
	}
}

static int visit(PyObject *object, void *argument)
{
	struct census *c = argument;
	PyObject *type;
	unsigned long flags;
	uint16_t index;
	inquiry is_gc;

	if (!object || !first_time(c, object))
		return 0;
	type = AT(PyObject *, object, OB_TYPE);
	flags = AT(unsigned long, type, TP_FLAGS);
	is_gc = AT(inquiry, type, TP_IS_GC);
	if (flags & HAVE_GC && is_gc && !is_gc(object))
		flags &= ~HAVE_GC; /* a type that is not on the heap, such as int */
	index = type_index(c, type);
	note(c, object, object_bytes(object, type, flags), index, flags & TYPE_SUBCLASS ? TYPE : OBJECT, bytes_before(flags));
	note_parts(c, object, flags, index);
	if (!(flags & HAVE_GC) || c->failed)
		return 0;
	if (c->depth == c->room) { /* deeper than ever: twice the room */
		PyObject **larger = fresh(2 * c->room * sizeof *larger);

		if (!larger) {
			c->failed = 1;
			return 0;
		}
		memcpy(larger, c->stack, c->depth * sizeof *larger);
		munmap(c->stack, c->room * sizeof *larger);
		c->stack = larger;
		c->room *= 2;
	}
	c->stack[c->depth++] = object;
	return 0;
}

static void follow(struct census *c)
{
	while (c->depth) {
		PyObject *object = c->stack[--c->depth];
		traverseproc traverse = AT(traverseproc, AT(PyObject *, object, OB_TYPE), TP_TRAVERSE);

		if (traverse)
			traverse(object, visit, c);
	}
}

/* The head of the youngest generation follows the youngest object. Each generation is a list in a ring; behind the third
 * stands a pointer to the first, which is how we know that these are they; behind that, the frozen objects. */
static char *find_generations(void)
{
	PyObject *youngest = PyList_New(0);
	char *head = NULL;
	uint64_t points = 0;

	if (!youngest)
		return NULL;
	head = AT(char *, youngest, -GC_HEAD);
	if (head) {
		struct iovec here = {&points, sizeof points}, there = {head + 3 * GENERATION, sizeof points};

		/* Through the kernel, which refuses where a plain load would crash. */
		if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != sizeof points || points != (uint64_t)head)
			head = NULL;
	}
	Py_DECREF(youngest);
	return head;
}

static void walk(struct census *c, char *head)
{
	char *at;

	for (at = AT(char *, head, 0); at != head && !c->failed; at = AT(char *, at, 0)) {
		visit((PyObject *)(at + GC_HEAD), c);
		follow(c);
	}
}

static void write_names(struct census *c)
{
	uint32_t i;

	for (i = 0; i < c->n_types && !c->failed; i++) {
		const char *name = AT(const char *, c->by_index[i], TP_NAME);
		uint16_t length = (uint16_t)strnlen(name, 1000);
		struct iovec parts[2] = {{&length, 2}, {(void *)name, length}};

		if (writev(c->fd, parts, 2) != 2 + length)
			c->failed = 1;
	}
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int take_census(int fd, struct head *head)
{
	static const int permanent = 3 * GENERATION + 8;
	struct census c = {.fd = fd, .room = 1 << 16};
	char *generations = find_generations();
	int i;

	if (!generations)
		return -1;
	c.regions = fresh(REGIONS * sizeof *c.regions);
	c.types = fresh(TYPES * sizeof *c.types);
	c.by_index = fresh(TYPES * sizeof *c.by_index);
	c.rows = fresh(ROWS * sizeof *c.rows);
	c.stack = fresh(c.room * sizeof *c.stack);
	c.failed = !c.regions || !c.types || !c.by_index || !c.rows || !c.stack;
	if (!c.failed && write(fd, head, sizeof *head) != sizeof *head)
		c.failed = 1;
	for (i = 0; i < 3 && !c.failed; i++)
		walk(&c, generations + i * GENERATION);
	if (!c.failed)
		walk(&c, generations + permanent);
	if (!c.failed) {
		flush(&c);
		write_names(&c);
	}
	head->n_rows = c.n_rows;
	head->n_types = c.n_types;
	head->spent_ns = now() - head->time_ns;
	if (!c.failed && pwrite(fd, head, sizeof *head, 0) != sizeof *head)
		c.failed = 1;
	while (c.slabs) {
		void *before = *(void **)c.slabs;

		munmap(c.slabs, SLAB);
		c.slabs = before;
	}
	if (c.regions)
		munmap(c.regions, REGIONS * sizeof *c.regions);
	if (c.types)
		munmap(c.types, TYPES * sizeof *c.types);
	if (c.by_index)
		munmap(c.by_index, TYPES * sizeof *c.by_index);
	if (c.rows)
		munmap(c.rows, ROWS * sizeof *c.rows);
	if (c.stack)
		munmap(c.stack, c.room * sizeof *c.stack);
	return c.failed ? -1 : 0;
}

/* --- what Python calls --- */

static char directory[3500];
static unsigned number;
static uint64_t ended_at, spent;

#define ENDS 4095 /* one word and so many rows fill 16 pages */
#define LEAST_PAUSE_NS 500000000u
#define PAUSE_PER_CENSUS 20 /* a census takes at most the 20th part of the time */

static PyObject *census_to(const char *path)
{
	char partial[4000];
	struct head head = {.magic = "COWOBJ1", .pid = (uint32_t)getpid(), .time_ns = now()};
	int fd, failed;

	snprintf(partial, sizeof partial, "%s.partial", path);
	fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
	failed = take_census(fd, &head);
	failed |= close(fd);
	if (failed || rename(partial, path)) {
		unlink(partial);
		PyErr_SetString(PyExc_RuntimeError, "the objects could not be listed");
		return NULL;
	}
	ended_at = now();
	spent = head.spent_ns;
	return Py_BuildValue("KK", (unsigned long long)head.n_rows, (unsigned long long)head.spent_ns);
}

static PyObject *census(PyObject *self, PyObject *argument)
{
	PyObject *path = NULL, *result = NULL;

	if (PyUnicode_FSConverter(argument, &path))
		result = census_to(PyBytes_AsString(path));
	Py_XDECREF(path);
	return result;
}

static int wants_lines;

/* Once in a process and its children: before its first fork nothing is shared. */
static void start_lines(void)
{
	char path[3600];
	const char *why;
	int fd;

	wants_lines = 0;
	snprintf(path, sizeof path, "%s/lines.%ld", directory, (long)getpid());
	why = lines_begin(path);
	if (!why)
		return;
	snprintf(path, sizeof path, "%s/nolines.%ld", directory, (long)getpid());
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, why, strlen(why)) < 0)
		unlink(path);
	if (fd >= 0)
		close(fd);
}

/* Before each fork; never fails, since a program must not notice. Forks in quick succession share a census. */
static PyObject *before_fork(PyObject *self, PyObject *unused)
{
	char path[3600];
	PyObject *result;

	if (directory[0] && wants_lines)
		start_lines();
	if (directory[0] && (!ended_at || now() - ended_at > LEAST_PAUSE_NS + PAUSE_PER_CENSUS * spent)) {
		snprintf(path, sizeof path, "%s/objects.%ld.%u", directory, (long)getpid(), number++);
		result = census_to(path);
		if (!result) {
			PyErr_Clear();
			directory[0] = 0;
		}
		Py_XDECREF(result);
	}
	Py_INCREF(Py_None);
	return Py_None;
}

/* In the child: its objects will be others. */
static PyObject *after_fork(PyObject *self, PyObject *unused)
{
	number = 0;
	ended_at = 0;
	Py_INCREF(Py_None);
	return Py_None;
}

/* When interpreters began to end, of this process and its children: made beforehand, in memory that they share, since a
 * file written at the end would take a page that looks like a copy. */
static struct ends {
	_Atomic uint64_t used;
	struct {
		uint64_t pid, time_ns;
	} rows[ENDS];
} *ends;

static void make_ends(void)
{
	char path[3600];
	int fd;

	snprintf(path, sizeof path, "%s/shutdowns.%ld", directory, (long)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (ends)
		munmap(ends, sizeof *ends);
	ends = NULL;
	if (!posix_fallocate(fd, 0, sizeof *ends))
		ends = mmap(NULL, sizeof *ends, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (ends == MAP_FAILED)
		ends = NULL;
	close(fd);
}

static PyObject *note_shutdown(PyObject *self, PyObject *unused)
{
	uint64_t at = ends ? atomic_fetch_add(&ends->used, 1) : ENDS;

	if (at < ENDS) {
		ends->rows[at].time_ns = now();
		ends->rows[at].pid = (uint64_t)getpid();
	}
	Py_INCREF(Py_None);
	return Py_None;
}

/* True the first time in a process: further interpreters of it stay out. */
static PyObject *set_up(PyObject *self, PyObject *arguments)
{
	int first = !minor;

	if (!PyArg_ParseTuple(arguments, "i", &minor))
		return NULL;
	return PyBool_FromLong(first);
}

static PyObject *write_to(PyObject *self, PyObject *argument)
{
	PyObject *path = NULL;
	Py_ssize_t length;
	char *where;

	if (!PyUnicode_FSConverter(argument, &path))
		return NULL;
	if (PyBytes_AsStringAndSize(path, &where, &length) < 0 || length >= (Py_ssize_t)sizeof directory) {
		Py_DECREF(path);
		PyErr_SetString(PyExc_ValueError, "the directory's name is too long");
		return NULL;
	}
	memcpy(directory, where, (size_t)length + 1);
	ended_at = 0;
	Py_DECREF(path);
	if (directory[0])
		make_ends();
	Py_INCREF(Py_None);
	return Py_None;
}

static PyObject *said(const char *why)
{
	if (why)
		return PyUnicode_FromString(why);
	Py_INCREF(Py_None);
	return Py_None;
}

static PyObject *prepare_lines(PyObject *self, PyObject *arguments)
{
	PyObject *code, *file, *name, *table;

	if (!PyArg_ParseTuple(arguments, "OOOO", &code, &file, &name, &table))
		return NULL;
	return said(lines_prepare(minor, code, file, name, table));
}

static PyObject *want_lines(PyObject *self, PyObject *unused)
{
	wants_lines = 1;
	return said(NULL);
}

static PyMethodDef methods[] = {
	{"prepare_lines", prepare_lines, METH_VARARGS, "A running code object, its file, name and line table; why there are no lines."},
	{"want_lines", want_lines, METH_NOARGS, "Note lines from the next fork on."},
	{"census", census, METH_O, "List all objects in a file; the number of rows and the nanoseconds it took."},
	{"before_fork", before_fork, METH_NOARGS, "A census, unless there was one a moment ago."},
	{"after_fork", after_fork, METH_NOARGS, "Forget the parent's censuses."},
	{"shutdown", note_shutdown, METH_NOARGS, "Write down when the interpreter began to end."},
	{"set_up", set_up, METH_VARARGS, "Tell the minor version of CPython 3; true the first time."},
	{"write_to", write_to, METH_O, "The directory for all that is written unasked; none if it is empty."},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT, "_cowscope_agent", "Which object lies where, before a fork.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__cowscope_agent(void)
{
	return PyModule_Create(&definition);
}
