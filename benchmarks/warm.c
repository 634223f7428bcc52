/* warm BYTES: makes so much free memory quick to use, says so in one line, and keeps it so until standard
 * input is closed.
 *
 * A virtual machine gets a page from its host at the first touch, which costs ten times what writing it
 * costs, and it gives free memory back in blocks of 2 MiB two seconds after it was freed. So: touch the
 * memory, then free all of it except one page in each 2 MiB block. What is free now is in smaller pieces:
 * they are not given back, and the kernel takes small pieces first when it needs pages.
 */
#include "common.h"
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096, PAGES_PER_BLOCK = 512, BATCH_PAGES = 65536 };

/* Frees the pages of one batch, except the first that is seen of each physical block. */
static void thin_out(char *memory, size_t first_page, size_t pages, int pagemap)
{
    static uint64_t entries[BATCH_PAGES];
    uint64_t last_block = UINT64_MAX;
    off_t at = (off_t)(((uintptr_t)memory / PAGE_BYTES + first_page) * sizeof entries[0]);
    if (pread(pagemap, entries, pages * sizeof entries[0], at) != (ssize_t)(pages * sizeof entries[0]))
        memset(entries, 0, sizeof entries);
    for (size_t i = 0; i < pages; i++) {
        uint64_t frame = entries[i] & ((1ULL << 55) - 1);
        /* Without privilege every frame reads as 0: go by the virtual address then. */
        uint64_t block = (frame != 0 ? frame : first_page + i) / PAGES_PER_BLOCK;
        if (block != last_block)
            last_block = block;
        else if (madvise(memory + (first_page + i) * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED) != 0)
            die("madvise", "memory");
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "warm BYTES\n");
        return 2;
    }
    size_t pages = (size_t)number(argv[1]) / PAGE_BYTES;
    char *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap", "memory");
    madvise(memory, pages * PAGE_BYTES, MADV_NOHUGEPAGE); /* a kernel without huge pages refuses: as well */
    double start_s = now_s();
    for (size_t i = 0; i < pages; i++)
        memory[i * PAGE_BYTES] = 1;
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    for (size_t i = 0; i < pages; i += BATCH_PAGES)
        thin_out(memory, i, pages - i < BATCH_PAGES ? pages - i : BATCH_PAGES, pagemap);
    printf("{\"seconds\": %.6f}\n", now_s() - start_s);
    fflush(stdout);
    char end;
    while (read(STDIN_FILENO, &end, 1) > 0)
        ;
    return 0;
}
