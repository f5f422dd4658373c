/*
 * A child of vfork shares its parent's memory and ends by _exit when exec fails; the parent goes on
 * unharmed.
 */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
    for (int i = 0; i < 100; i++) {
        void *volatile block = malloc(64);
        free(block);
    }
    for (int i = 0; i < 3; i++) {
        int status;
        pid_t child = vfork();
        if (child == 0) {
            execl("/no/such/program", "program", (char *)NULL);
            _exit(5);
        }
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 5) {
            return 1;
        }
    }
    return 0;
}
