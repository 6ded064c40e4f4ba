#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_SIZE 4096

struct counts {
    unsigned long lines;
    unsigned long bytes;
};

static int count_stream(FILE *stream, struct counts *out)
{
    char buffer[BUFFER_SIZE];
    size_t got;

    memset(out, 0, sizeof(*out));
    while ((got = fread(buffer, 1, sizeof(buffer), stream)) > 0) {
        const char *at = buffer;
        const char *end = buffer + got;

        while ((at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
            out->lines++;
            at++;
        }
        out->bytes += got;
    }
    return ferror(stream) ? -1 : 0;
}

int main(int argc, char **argv)
{
    int status = EXIT_SUCCESS;

    for (int i = 1; i < argc; i++) {
        struct counts counts;
        FILE *stream = fopen(argv[i], "rb");

        if (stream == NULL) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
            status = EXIT_FAILURE;
            continue;
        }
        if (count_stream(stream, &counts) == 0)
            printf("%8lu %8lu %s\n", counts.lines, counts.bytes, argv[i]);
        fclose(stream);
    }
    return status;
}
