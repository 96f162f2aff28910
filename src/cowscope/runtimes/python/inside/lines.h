/* Python lines at the very instruction that breaks the sharing. See lines.c. */
#ifndef COWSCOPE_LINES_H
#define COWSCOPE_LINES_H

#include <Python.h>

/* The minor version of CPython 3, and a code object that runs now with what it says of itself. NULL, or why there
 * will be no lines. */
const char *lines_prepare(int minor, PyObject *code, PyObject *file, PyObject *name, PyObject *table);

/* Begin to note lines in a new file; at most once in a process and its children. NULL, or why not. */
const char *lines_begin(const char *path);

#endif
