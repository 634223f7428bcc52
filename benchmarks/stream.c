/* Sequential writing and reading.
 *
 *   stream write PATH BLOCK_BYTES TOTAL_BYTES none|fsync    a new file; seconds of each phase
 *   stream read PATH BLOCK_BYTES                            one pass; seconds from open to end of file
 *   stream writers DIR WRITERS BLOCK_BYTES TOTAL_BYTES      WRITERS processes, a new file of TOTAL_BYTES each
 */
#include "crew.h"
#include <fcntl.h>
#include <limits.h>

static int do_write(const char *path, long block_bytes, long total_bytes, const char *sync)
{
    char *block = noise((size_t)block_bytes);
    double t0 = now_s();
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0)
        die("open", path);
    double t1 = now_s();
    for (long done = 0; done < total_bytes; done += block_bytes)
        write_block(fd, block, (size_t)block_bytes, path);
    double t2 = now_s();
    if (strcmp(sync, "fsync") == 0 && fsync(fd) != 0)
        die("fsync", path);
    double t3 = now_s();
    if (close(fd) != 0)
        die("close", path);
    double t4 = now_s();
    printf("{\"open_s\": %.6f, \"write_s\": %.6f, \"fsync_s\": %.6f, \"close_s\": %.6f, \"whole_s\": %.6f}\n",
           t1 - t0, t2 - t1, t3 - t2, t4 - t3, t4 - t0);
    return 0;
}

static int do_read(const char *path, long block_bytes)
{
    char *block = noise((size_t)block_bytes);
    long total = 0;
    ssize_t got;
    double t0 = now_s();
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        die("open", path);
    while ((got = read(fd, block, (size_t)block_bytes)) > 0)
        total += got;
    if (got < 0)
        die("read", path);
    double t1 = now_s();
    close(fd);
    printf("{\"read_s\": %.6f, \"bytes\": %ld}\n", t1 - t0, total);
    return 0;
}

struct writers_job {
    const char *directory;
    long block_bytes, total_bytes;
    char *block;
};

static void one_writer(long writer, void *context)
{
    struct writers_job *job = context;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/writer-%03ld", job->directory, writer);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0)
        die("open", path);
    for (long done = 0; done < job->total_bytes; done += job->block_bytes)
        write_block(fd, job->block, (size_t)job->block_bytes, path);
    if (close(fd) != 0)
        die("close", path);
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "write") == 0)
        return do_write(argv[2], number(argv[3]), number(argv[4]), argv[5]);
    if (argc == 4 && strcmp(argv[1], "read") == 0)
        return do_read(argv[2], number(argv[3]));
    if (argc == 6 && strcmp(argv[1], "writers") == 0) {
        long block_bytes = number(argv[4]);
        struct writers_job job = {argv[2], block_bytes, number(argv[5]), noise((size_t)block_bytes)};
        printf("{\"seconds\": %.6f}\n", crew_run(number(argv[3]), one_writer, &job));
        return 0;
    }
    fprintf(stderr, "stream write|read|writers ...: see the head of stream.c\n");
    return 2;
}
