/*
 * Handles that know when they are stale: beside the object's address a handle holds the generation that
 * the object had, in bits of the pointer that are unused.
 */
#include <freehold/freehold.h>

#include <stdio.h>

struct connection {
    unsigned generation; /* counted up when it is closed */
    int socket;
};

static struct connection *open_connection(struct connection *connection, int socket)
{
    connection->socket = socket;
    return fh_tag(connection, connection->generation);
}

/* NULL: the handle is from before it was closed. */
static struct connection *look_up(struct connection *handle)
{
    struct connection *connection = fh_untag(handle);
    return fh_tag_of(handle) == connection->generation % FH_TAGS ? connection : NULL;
}

static void close_connection(struct connection *handle)
{
    struct connection *connection = look_up(handle);
    if (connection != NULL)
        connection->generation++;
}

int main(void)
{
    static struct connection slot;
    struct connection *first = open_connection(&slot, 3);
    printf("first: socket %d\n", look_up(first)->socket);
    close_connection(first);
    struct connection *second = open_connection(&slot, 4);
    printf("first again: %s\n", look_up(first) == NULL ? "stale" : "valid");
    printf("second: socket %d\n", look_up(second)->socket);
    return 0;
}
