/*
 * stack/ids: numbers for stacks.
 *
 * A stack is a path in a tree whose root is nobody: a *node* is {caller's node, return address},
 * and the id of a stack is the node of its innermost frame. Stacks of one program share most of
 * their outer frames, so the tree is small, and a frame is 16 bytes once.
 *
 * Nodes are found by hash in a *split-ordered list* (Shalev and Shavit, "Split-Ordered Lists:
 * Lock-Free Extensible Hash Tables", JACM 2006): all nodes are in one linked list, sorted by their
 * bit-reversed hash; a bucket is a pointer to a marker node (a *dummy*) inside it. Doubling the
 * number of buckets moves nothing: the new bucket's range is the second half of an old one's, and
 * its dummy goes in between when first asked for. Nodes are never removed, so an insertion is one
 * compare-and-swap and a look-up only reads.
 *
 * Invariants: a node's frame, parent are set before it is linked and never change; `next` changes
 * only from a node to one that is inserted before it; equal keys are adjacent and a new one goes
 * behind them, so that two threads that insert the same node meet at the same word.
 *
 * Nodes live in chunks of 64 KiB that are mapped as they are needed and never move or go.
 */
#ifndef FH_STACK_IDS_H
#define FH_STACK_IDS_H

#include "base/core/macros.h"

#include <stdatomic.h>

enum {
    FH_NODE_CHUNK_SHIFT = 12,
    FH_NODE_CHUNKS = 1 << 14, /* 2^26 nodes, 1 GiB */
    FH_BUCKET_CHUNK_SHIFT = 12,
    FH_BUCKET_CHUNKS = 1 << 12, /* 2^24 buckets, 4 nodes in each at the most */
};

struct fh_stack_node {
    uintptr_t frame; /* 0: a dummy, then parent is its bucket */
    uint32_t parent;
    _Atomic uint32_t next;
};

struct fh_ids {
    _Atomic(void *) nodes[FH_NODE_CHUNKS];     /* arrays of struct fh_stack_node */
    _Atomic(void *) buckets[FH_BUCKET_CHUNKS]; /* arrays of _Atomic uint32_t; 0: no dummy yet */
    _Atomic uint32_t nodes_len;                /* the last number given out; node 0 is nobody */
    _Atomic uint32_t bucket_bits; /* buckets in use: 2^(this + FH_BUCKET_CHUNK_SHIFT) */
};

#endif
