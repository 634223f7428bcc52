/* What the measuring programs share: a clock, a loud exit and whole writes. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A measurement with a failed call in it is worth nothing: say which call and stop. */
static inline void die(const char *call, const char *path)
{
    fprintf(stderr, "%s %s: %s\n", call, path, strerror(errno));
    exit(1);
}

static inline long number(const char *text)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || value <= 0) {
        fprintf(stderr, "not a positive number: %s\n", text);
        exit(2);
    }
    return value;
}

/* One write(2) per block, as the measured applications do; a short write is an error here. */
static inline void write_block(int fd, const char *block, size_t bytes, const char *path)
{
    ssize_t done = write(fd, block, bytes);
    if (done < 0)
        die("write", path);
    if ((size_t)done != bytes) {
        fprintf(stderr, "write %s: short (%zd of %zu)\n", path, done, bytes);
        exit(1);
    }
}

/* Incompressible, so that nothing on the way can cheat; touched, so that no page fault is timed. */
static inline char *noise(size_t bytes)
{
    char *block = malloc(bytes);
    if (block == NULL)
        die("malloc", "block");
    unsigned long long x = 88172645463325252ULL;
    for (size_t i = 0; i < bytes; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        block[i] = (char)x;
    }
    return block;
}

#endif
