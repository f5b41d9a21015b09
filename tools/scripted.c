/* scripted.c - writes DIR/scripted, the checkpoint of tests/api/scripted.h, for tests that are not
 * in C.
 *
 * Usage: scripted DIR */
#include "../tests/api/scripted.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: scripted DIR\n", stderr);
        return 2;
    }
    scripted_write(argv[1]);
    return 0;
}
