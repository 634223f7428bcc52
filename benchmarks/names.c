/* Many names in one directory.
 *
 *   names make DIR COUNT BYTES    creates DIR/name-000000 ... with BYTES of content each (0: empty); not timed
 *   names stat DIR COUNT          one stat(2) of each, from inside DIR; seconds
 */
#include "common.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

static void name_of(char *path, const char *directory, long index)
{
    if (snprintf(path, PATH_MAX, "%s/name-%06ld", directory, index) >= PATH_MAX) {
        fprintf(stderr, "path too long\n");
        exit(2);
    }
}

static int do_make(const char *directory, long count, size_t bytes)
{
    char path[PATH_MAX];
    char *block = noise(bytes + 1);
    for (long i = 0; i < count; i++) {
        name_of(path, directory, i);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0)
            die("open", path);
        if (bytes > 0)
            write_block(fd, block, bytes, path);
        if (close(fd) != 0)
            die("close", path);
    }
    printf("{}\n");
    return 0;
}

static int do_stat(const char *directory, long count)
{
    char path[PATH_MAX];
    struct stat attributes;
    /* From inside, or the depth of a target's paths would be measured with each name. */
    if (chdir(directory) != 0)
        die("chdir", directory);
    double t0 = now_s();
    for (long i = 0; i < count; i++) {
        name_of(path, ".", i);
        if (stat(path, &attributes) != 0)
            die("stat", path);
    }
    printf("{\"seconds\": %.6f}\n", now_s() - t0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "make") == 0)
        return do_make(argv[2], number(argv[3]), (size_t)atol(argv[4]));
    if (argc == 4 && strcmp(argv[1], "stat") == 0)
        return do_stat(argv[2], number(argv[3]));
    fprintf(stderr, "names make|stat ...: see the head of names.c\n");
    return 2;
}
