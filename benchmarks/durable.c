/* Small files, each of them durable and complete under its name before the next is begun.
 *
 *   durable link|close DIR WRITERS FILES BYTES    WRITERS processes, FILES files each, all in DIR
 *
 * link   what a careful program does on a plain directory: create a temporary name, write, fsync, close,
 *        link to the final name, fsync of the directory, unlink the temporary name
 * close  what any program does on the mount: create the final name, write, close (= committed)
 */
#include "crew.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>

struct job {
    int directory_fd;
    long files;
    size_t bytes;
    char *block;
    float *latency_s; /* shared with the writers */
    void (*store)(struct job *job, const char *name, const char *temporary);
};

static void create_and_write(struct job *job, const char *name, int sync)
{
    int fd = openat(job->directory_fd, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0)
        die("open", name);
    write_block(fd, job->block, job->bytes, name);
    if (sync && fsync(fd) != 0)
        die("fsync", name);
    if (close(fd) != 0)
        die("close", name);
}

static void store_by_link(struct job *job, const char *name, const char *temporary)
{
    create_and_write(job, temporary, 1);
    if (linkat(job->directory_fd, temporary, job->directory_fd, name, 0) != 0)
        die("link", name);
    if (fsync(job->directory_fd) != 0)
        die("fsync of directory for", name);
    if (unlinkat(job->directory_fd, temporary, 0) != 0)
        die("unlink", temporary);
}

static void store_by_close(struct job *job, const char *name, const char *temporary)
{
    (void)temporary;
    create_and_write(job, name, 0);
}

static void one_writer(long writer, void *context)
{
    struct job *job = context;
    char name[NAME_MAX], temporary[NAME_MAX];
    for (long i = 0; i < job->files; i++) {
        snprintf(name, sizeof name, "w%02ld-%06ld", writer, i);
        snprintf(temporary, sizeof temporary, "tmp-w%02ld-%06ld", writer, i);
        double t0 = now_s();
        job->store(job, name, temporary);
        job->latency_s[writer * job->files + i] = (float)(now_s() - t0);
    }
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct job job = {0};
    if (argc == 6 && strcmp(argv[1], "link") == 0)
        job.store = store_by_link;
    else if (argc == 6 && strcmp(argv[1], "close") == 0)
        job.store = store_by_close;
    else {
        fprintf(stderr, "durable link|close DIR WRITERS FILES BYTES\n");
        return 2;
    }
    long writers = number(argv[3]);
    job.files = number(argv[4]);
    job.bytes = (size_t)number(argv[5]);
    job.block = noise(job.bytes);
    size_t total = (size_t)(writers * job.files);
    job.latency_s = mmap(NULL, total * sizeof(float), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (job.latency_s == MAP_FAILED)
        die("mmap", "latencies");
    job.directory_fd = open(argv[2], O_RDONLY | O_DIRECTORY);
    if (job.directory_fd < 0)
        die("open", argv[2]);
    double seconds = crew_run(writers, one_writer, &job);
    qsort(job.latency_s, total, sizeof(float), by_size);
    printf("{\"seconds\": %.6f, \"files\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n", seconds, total,
           1e3 * (double)job.latency_s[total / 2], 1e3 * (double)job.latency_s[total * 99 / 100]);
    return 0;
}
