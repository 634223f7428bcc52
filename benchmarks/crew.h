/* A crew of writer processes released at one moment and timed until the last one is done. */
#ifndef BENCH_CREW_H
#define BENCH_CREW_H

#include "common.h"
#include <sys/wait.h>

/* Processes, not threads: the writers that the mount serves in real life do not share descriptors. */
static inline double crew_run(long writers, void (*work)(long writer, void *context), void *context)
{
    int ready[2], go[2];
    if (pipe(ready) != 0 || pipe(go) != 0)
        die("pipe", "crew");
    for (long writer = 0; writer < writers; writer++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork", "crew");
        if (pid == 0) {
            char token = 'r';
            close(go[1]);
            if (write(ready[1], &token, 1) != 1)
                die("write", "ready pipe");
            if (read(go[0], &token, 1) != 0) /* returns at the parent's close */
                die("read", "go pipe");
            work(writer, context);
            _exit(0);
        }
    }
    char token;
    for (long writer = 0; writer < writers; writer++)
        if (read(ready[0], &token, 1) != 1)
            die("read", "ready pipe");
    double start_s = now_s();
    close(go[1]);
    int failures = 0, status;
    for (long writer = 0; writer < writers; writer++)
        if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
            failures++;
    double elapsed_s = now_s() - start_s;
    if (failures != 0) {
        fprintf(stderr, "%d writers failed\n", failures);
        exit(1);
    }
    return elapsed_s;
}

#endif
