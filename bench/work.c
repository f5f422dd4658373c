/*
 * Small programs that live from allocation, as parsers, algebra systems and scripts do: their
 * time is malloc's, free's, and the cache misses that the layout of blocks brings about.
 *
 *   json      a document of some 40,000 values parsed into a tree (a block a node, one a string,
 *             a growing child array), written out again, freed
 *   algebra   expressions built at random, differentiated twice, simplified: trees of 40-byte
 *             nodes and short names, many freed soon after they are made
 *   bignum    after cfrac: modular powers with numbers of a few words, each result a fresh block
 *   cover     after espresso: prime implicants of a random function by iterated consensus: cubes
 *             and families of cubes that come and go
 *   text      words counted in a chained table, lines joined and split, strings grown by realloc
 *   large     blocks of 5–25 MiB made, touched on each page, freed: hysteresis of unmapping
 *   buffers   40 buffers of 1 KiB–1 MiB resized at random: the middle sizes, in place or not
 *
 * Every program prints a checksum, equal under every allocator.
 */
#include "harness.h"

#include <stdbool.h>

static char *copy_text(const char *text, size_t length)
{
    char *copy = bench_must(malloc(length + 1));
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

/* A text that grows; doubling, as most programs do. */
struct buffer {
    char *data;
    size_t length, capacity;
};

static void buffer_append(struct buffer *buffer, const char *text, size_t length)
{
    if (buffer->length + length + 1 > buffer->capacity) {
        buffer->capacity = 2 * buffer->capacity + length + 16;
        buffer->data = bench_must(realloc(buffer->data, buffer->capacity));
    }
    memcpy(buffer->data + buffer->length, text, length);
    buffer->length += length;
    buffer->data[buffer->length] = '\0';
}

static void buffer_append_text(struct buffer *buffer, const char *text)
{
    buffer_append(buffer, text, strlen(text));
}

static uint64_t hash_text(const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    }
    return hash;
}

/* --- json --- */

enum json_kind { JSON_NUMBER, JSON_STRING, JSON_LIST, JSON_OBJECT };

struct json {
    enum json_kind kind;
    uint32_t number;
    char *string;
    size_t count, capacity;
    char **keys; /* of an object, else NULL */
    struct json **children;
};

static void json_generate(struct buffer *out, uint64_t *random, int depth)
{
    char scratch[64];
    uint32_t kind = depth == 0 ? 3 : bench_below(random, depth > 6 ? 2 : 4);
    uint32_t count = depth == 0 ? 400 : 1 + bench_below(random, 8);
    switch (kind) {
    case 0:
        snprintf(scratch, sizeof(scratch), "%u", bench_below(random, 1000000));
        buffer_append_text(out, scratch);
        break;
    case 1:
        buffer_append_text(out, "\"");
        for (uint32_t i = 0; i < count * 4; i++) {
            scratch[0] = (char)('a' + bench_below(random, 26));
            buffer_append(out, scratch, 1);
        }
        buffer_append_text(out, "\"");
        break;
    default:
        buffer_append_text(out, kind == 2 ? "[" : "{");
        for (uint32_t i = 0; i < count; i++) {
            if (i > 0) {
                buffer_append_text(out, ",");
            }
            if (kind == 3) {
                snprintf(scratch, sizeof(scratch), "\"key%u\":", bench_below(random, 100000));
                buffer_append_text(out, scratch);
            }
            json_generate(out, random, depth + 1);
        }
        buffer_append_text(out, kind == 2 ? "]" : "}");
    }
}

static char *json_take_string(const char **at)
{
    const char *begin = ++*at;
    while (**at != '"') {
        ++*at;
    }
    return copy_text(begin, (size_t)((*at)++ - begin));
}

static struct json *json_parse(const char **at)
{
    struct json *node = bench_must(calloc(1, sizeof(*node)));
    if (**at == '"') {
        node->kind = JSON_STRING;
        node->string = json_take_string(at);
        return node;
    }
    if (**at != '[' && **at != '{') {
        node->kind = JSON_NUMBER;
        while (**at >= '0' && **at <= '9') {
            node->number = 10 * node->number + (uint32_t)(*(*at)++ - '0');
        }
        return node;
    }
    node->kind = **at == '[' ? JSON_LIST : JSON_OBJECT;
    char close = node->kind == JSON_LIST ? ']' : '}';
    while (*(*at)++ != close) {
        if (node->count == node->capacity) {
            node->capacity = node->capacity == 0 ? 2 : 2 * node->capacity;
            node->children =
                bench_must(realloc(node->children, node->capacity * sizeof(*node->children)));
            if (node->kind == JSON_OBJECT) {
                node->keys = bench_must(realloc(node->keys, node->capacity * sizeof(*node->keys)));
            }
        }
        if (node->kind == JSON_OBJECT) {
            node->keys[node->count] = json_take_string(at);
            ++*at; /* the colon */
        }
        node->children[node->count++] = json_parse(at);
    }
    return node;
}

static void json_write(const struct json *node, struct buffer *out)
{
    char digits[16];
    char *first = digits + sizeof(digits);
    switch (node->kind) {
    case JSON_NUMBER:
        for (uint32_t rest = node->number; rest > 0 || first == digits + sizeof(digits);
             rest /= 10) {
            *--first = (char)('0' + rest % 10);
        }
        buffer_append(out, first, (size_t)(digits + sizeof(digits) - first));
        return;
    case JSON_STRING:
        buffer_append_text(out, "\"");
        buffer_append_text(out, node->string);
        buffer_append_text(out, "\"");
        return;
    case JSON_LIST:
    case JSON_OBJECT:
        for (size_t i = 0; i < node->count; i++) {
            if (node->keys != NULL) {
                buffer_append_text(out, node->keys[i]);
            }
            json_write(node->children[i], out);
        }
    }
}

static void json_free(struct json *node)
{
    for (size_t i = 0; i < node->count; i++) {
        if (node->keys != NULL) {
            free(node->keys[i]);
        }
        json_free(node->children[i]);
    }
    free(node->keys);
    free(node->children);
    free(node->string);
    free(node);
}

static uint64_t run_json(uint64_t count)
{
    uint64_t random = 7;
    uint64_t checksum = 0;
    struct buffer document = {0};
    json_generate(&document, &random, 0);
    for (uint64_t i = 0; i < count; i++) {
        const char *at = document.data;
        struct buffer out = {0};
        struct json *root = json_parse(&at);
        json_write(root, &out);
        checksum += out.length;
        json_free(root);
        free(out.data);
    }
    free(document.data);
    return checksum;
}

/* --- algebra --- */

enum operation { OP_NUMBER, OP_VARIABLE, OP_ADD, OP_MULTIPLY, OP_SINE, OP_COSINE };

struct expression {
    enum operation operation;
    long number;
    struct expression *left, *right;
    char *name; /* of a variable */
};

static struct expression *make(enum operation operation, struct expression *left,
                               struct expression *right)
{
    struct expression *node = bench_must(malloc(sizeof(*node)));
    *node = (struct expression){.operation = operation, .left = left, .right = right};
    return node;
}

static struct expression *make_number(long number)
{
    struct expression *node = make(OP_NUMBER, NULL, NULL);
    node->number = number;
    return node;
}

static struct expression *make_variable(const char *name)
{
    struct expression *node = make(OP_VARIABLE, NULL, NULL);
    node->name = copy_text(name, strlen(name));
    return node;
}

static struct expression *make_random(uint64_t *random, int depth)
{
    static const char *const names[] = {"x", "y", "velocity", "a_rather_long_name_of_a_variable"};
    if (depth == 0) {
        uint32_t choice = bench_below(random, 8);
        return choice < 4 ? make_variable(names[choice]) : make_number(choice - 4);
    }
    enum operation operation = OP_ADD + bench_below(random, 4);
    struct expression *left = make_random(random, depth - 1);
    return make(operation, left, operation <= OP_MULTIPLY ? make_random(random, depth - 1) : NULL);
}

static struct expression *duplicate(const struct expression *node)
{
    if (node == NULL) {
        return NULL;
    }
    if (node->operation == OP_VARIABLE) {
        return make_variable(node->name);
    }
    struct expression *copy = make(node->operation, duplicate(node->left), duplicate(node->right));
    copy->number = node->number;
    return copy;
}

static void discard(struct expression *node)
{
    if (node != NULL) {
        discard(node->left);
        discard(node->right);
        free(node->name);
        free(node);
    }
}

static struct expression *differentiate(const struct expression *node)
{
    switch (node->operation) {
    case OP_NUMBER:
        return make_number(0);
    case OP_VARIABLE:
        return make_number(strcmp(node->name, "x") == 0);
    case OP_ADD:
        return make(OP_ADD, differentiate(node->left), differentiate(node->right));
    case OP_MULTIPLY:
        return make(OP_ADD, make(OP_MULTIPLY, differentiate(node->left), duplicate(node->right)),
                    make(OP_MULTIPLY, duplicate(node->left), differentiate(node->right)));
    case OP_SINE:
        return make(OP_MULTIPLY, make(OP_COSINE, duplicate(node->left), NULL),
                    differentiate(node->left));
    case OP_COSINE:
        return make(OP_MULTIPLY,
                    make(OP_MULTIPLY, make_number(-1), make(OP_SINE, duplicate(node->left), NULL)),
                    differentiate(node->left));
    }
    return NULL;
}

static bool is_number(const struct expression *node, long number)
{
    return node->operation == OP_NUMBER && node->number == number;
}

/* Keeps one operand of a binary node and discards the rest. */
static struct expression *keep(struct expression *node, struct expression *kept)
{
    discard(kept == node->left ? node->right : node->left);
    free(node);
    return kept;
}

static struct expression *simplify(struct expression *node)
{
    if (node->left != NULL) {
        node->left = simplify(node->left);
    }
    if (node->right != NULL) {
        node->right = simplify(node->right);
    }
    if (node->operation == OP_ADD) {
        if (is_number(node->left, 0)) {
            return keep(node, node->right);
        }
        return is_number(node->right, 0) ? keep(node, node->left) : node;
    }
    if (node->operation == OP_MULTIPLY) {
        if (is_number(node->left, 0) || is_number(node->right, 1)) {
            return keep(node, node->left);
        }
        return is_number(node->right, 0) || is_number(node->left, 1) ? keep(node, node->right)
                                                                     : node;
    }
    return node;
}

static uint64_t node_count(const struct expression *node)
{
    return node == NULL ? 0 : 1 + node_count(node->left) + node_count(node->right);
}

static uint64_t run_algebra(uint64_t count)
{
    uint64_t random = 11;
    uint64_t checksum = 0;
    for (uint64_t i = 0; i < count; i++) {
        struct expression *function = make_random(&random, 7);
        struct expression *first = simplify(differentiate(function));
        struct expression *second = simplify(differentiate(first));
        checksum += node_count(first) + node_count(second);
        discard(function);
        discard(first);
        discard(second);
    }
    return checksum;
}

/* --- bignum --- */

/* A natural number, least significant word first, without leading zero words; 0 has no words. */
struct natural {
    uint32_t length;
    uint32_t words[];
};

static struct natural *natural_new(uint32_t length)
{
    struct natural *number = bench_must(calloc(1, sizeof(*number) + length * sizeof(uint32_t)));
    number->length = length;
    return number;
}

static struct natural *natural_trim(struct natural *number)
{
    while (number->length > 0 && number->words[number->length - 1] == 0) {
        number->length--;
    }
    return number;
}

static int natural_compare(const struct natural *a, const struct natural *b)
{
    if (a->length != b->length) {
        return a->length < b->length ? -1 : 1;
    }
    for (uint32_t i = a->length; i-- > 0;) {
        if (a->words[i] != b->words[i]) {
            return a->words[i] < b->words[i] ? -1 : 1;
        }
    }
    return 0;
}

static struct natural *natural_multiply(const struct natural *a, const struct natural *b)
{
    struct natural *product = natural_new(a->length + b->length);
    for (uint32_t i = 0; i < a->length; i++) {
        uint64_t carry = 0;
        for (uint32_t j = 0; j < b->length; j++) {
            carry += (uint64_t)a->words[i] * b->words[j] + product->words[i + j];
            product->words[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        product->words[i + b->length] = (uint32_t)carry;
    }
    return natural_trim(product);
}

/* a << words, as a fresh number. */
static struct natural *natural_shift(const struct natural *a, uint32_t words)
{
    struct natural *shifted = natural_new(a->length + words);
    memcpy(shifted->words + words, a->words, a->length * sizeof(uint32_t));
    return shifted;
}

static struct natural *natural_scale(const struct natural *a, uint32_t factor)
{
    struct natural *scaled = natural_new(a->length + 1);
    uint64_t carry = 0;
    for (uint32_t i = 0; i < a->length; i++) {
        carry += (uint64_t)a->words[i] * factor;
        scaled->words[i] = (uint32_t)carry;
        carry >>= 32;
    }
    scaled->words[a->length] = (uint32_t)carry;
    return natural_trim(scaled);
}

/* a - b for a ≥ b, as a fresh number. */
static struct natural *natural_subtract(const struct natural *a, const struct natural *b)
{
    struct natural *difference = natural_new(a->length);
    int64_t borrow = 0;
    for (uint32_t i = 0; i < a->length; i++) {
        borrow += (int64_t)a->words[i] - (i < b->length ? (int64_t)b->words[i] : 0);
        difference->words[i] = (uint32_t)borrow;
        borrow >>= 32;
    }
    return natural_trim(difference);
}

/* a mod b by multiples of b that never exceed what is left: an under-estimated quotient digit,
 * repeated. Takes a. */
static struct natural *natural_modulo(struct natural *a, const struct natural *b)
{
    uint64_t divisor = (uint64_t)b->words[b->length - 1] + 1;
    while (natural_compare(a, b) >= 0) {
        uint32_t shift = a->length - b->length;
        uint64_t top = a->words[a->length - 1];
        uint64_t digit = top / divisor;
        if (digit == 0 && shift > 0) {
            shift--;
            digit = ((top << 32) | a->words[a->length - 2]) / divisor;
        }
        struct natural *scaled = natural_scale(b, digit == 0 ? 1 : (uint32_t)digit);
        struct natural *shifted = natural_shift(scaled, shift);
        struct natural *rest = natural_subtract(a, shifted);
        free(scaled);
        free(shifted);
        free(a);
        a = rest;
    }
    return a;
}

static uint64_t run_bignum(uint64_t count)
{
    uint64_t random = 5;
    uint64_t checksum = 0;
    for (uint64_t i = 0; i < count; i++) {
        struct natural *modulus = natural_new(4 + (uint32_t)i % 3);
        for (uint32_t j = 0; j < modulus->length; j++) {
            modulus->words[j] = (uint32_t)bench_random(&random) | 1;
        }
        struct natural *power = natural_new(1);
        power->words[0] = 3;
        for (int bit = 0; bit < 128; bit++) {
            struct natural *square = natural_modulo(natural_multiply(power, power), modulus);
            free(power);
            power = square;
            if ((modulus->words[bit / 32] >> (bit % 32) & 1) != 0) {
                struct natural *scaled = natural_modulo(natural_scale(power, 3), modulus);
                free(power);
                power = scaled;
            }
        }
        checksum += power->length > 0 ? power->words[0] : 0;
        free(power);
        free(modulus);
    }
    return checksum;
}

/* --- cover --- */

/*
 * A cube is a product term: for each variable whether it may be 0, may be 1, or both; two words of
 * one bit a variable. `tags` stand for the wide output part of a real cube and give blocks
 * different sizes.
 */
struct cube {
    uint32_t may_be_0, may_be_1;
    uint32_t tag_count;
    uint32_t tags[];
};

struct family {
    struct cube **cubes;
    size_t count, capacity;
};

static struct cube *cube_new(uint32_t may_be_0, uint32_t may_be_1)
{
    uint32_t tag_count = (may_be_0 ^ may_be_1) % 12;
    struct cube *cube = bench_must(malloc(sizeof(*cube) + tag_count * sizeof(uint32_t)));
    cube->may_be_0 = may_be_0;
    cube->may_be_1 = may_be_1;
    cube->tag_count = tag_count;
    for (uint32_t i = 0; i < tag_count; i++) {
        cube->tags[i] = may_be_0 + i;
    }
    return cube;
}

static bool cube_contains(const struct cube *a, const struct cube *b)
{
    return (b->may_be_0 & ~a->may_be_0) == 0 && (b->may_be_1 & ~a->may_be_1) == 0;
}

static void family_add(struct family *family, struct cube *cube)
{
    if (family->count == family->capacity) {
        family->capacity = family->capacity == 0 ? 4 : family->capacity + family->capacity / 2;
        family->cubes =
            bench_must(realloc(family->cubes, family->capacity * sizeof(*family->cubes)));
    }
    family->cubes[family->count++] = cube;
}

/* Adds a cube unless one of the family contains it; drops those that it contains. */
static void family_absorb(struct family *family, struct cube *cube)
{
    size_t kept = 0;
    for (size_t i = 0; i < family->count; i++) {
        if (cube_contains(family->cubes[i], cube)) {
            free(cube);
            return;
        }
    }
    for (size_t i = 0; i < family->count; i++) {
        if (cube_contains(cube, family->cubes[i])) {
            free(family->cubes[i]);
        } else {
            family->cubes[kept++] = family->cubes[i];
        }
    }
    family->count = kept;
    family_add(family, cube);
}

/* The consensus of two cubes that conflict in exactly one variable, NULL otherwise. */
static struct cube *cube_consensus(const struct cube *a, const struct cube *b, uint32_t all)
{
    uint32_t zero = a->may_be_0 & b->may_be_0;
    uint32_t one = a->may_be_1 & b->may_be_1;
    uint32_t conflict = all & ~(zero | one);
    if (conflict == 0 || (conflict & (conflict - 1)) != 0) {
        return NULL;
    }
    return cube_new(zero | conflict, one | conflict);
}

static struct family family_primes(struct family family, uint32_t all)
{
    for (size_t i = 1; i < family.count && family.count < 700; i++) {
        struct family found = {0};
        for (size_t j = 0; j < i; j++) {
            struct cube *consensus = cube_consensus(family.cubes[i], family.cubes[j], all);
            if (consensus != NULL) {
                family_add(&found, consensus);
            }
        }
        for (size_t j = 0; j < found.count; j++) {
            family_absorb(&family, found.cubes[j]);
        }
        free(found.cubes);
    }
    return family;
}

static uint64_t run_cover(uint64_t count)
{
    const uint32_t all = (1u << 10) - 1;
    uint64_t random = 13;
    uint64_t checksum = 0;
    for (uint64_t i = 0; i < count; i++) {
        struct family family = {0};
        for (int j = 0; j < 40; j++) {
            uint32_t value = (uint32_t)bench_random(&random) & all;
            uint32_t free_variables =
                (uint32_t)(bench_random(&random) & bench_random(&random)) & all;
            family_absorb(&family, cube_new(~value | free_variables, value | free_variables));
        }
        family = family_primes(family, all);
        for (size_t j = 0; j < family.count; j++) {
            checksum += family.cubes[j]->may_be_0 & all;
            free(family.cubes[j]);
        }
        free(family.cubes);
    }
    return checksum;
}

/* --- text --- */

enum { TABLE_BUCKETS = 4096 };

struct word {
    struct word *next;
    char *text;
    uint64_t count;
};

static void count_word(struct word **table, const char *text, size_t length)
{
    struct word **bucket = &table[hash_text(text, length) % TABLE_BUCKETS];
    char *key = copy_text(text, length); /* as scripts do: the key is made before it is looked up */
    for (struct word *word = *bucket; word != NULL; word = word->next) {
        if (strcmp(word->text, key) == 0) {
            word->count++;
            free(key);
            return;
        }
    }
    struct word *word = bench_must(malloc(sizeof(*word)));
    *word = (struct word){.next = *bucket, .text = key, .count = 1};
    *bucket = word;
}

static uint64_t empty_table(struct word **table)
{
    uint64_t checksum = 0;
    for (size_t i = 0; i < TABLE_BUCKETS; i++) {
        while (table[i] != NULL) {
            struct word *word = table[i];
            table[i] = word->next;
            checksum += word->count * word->count;
            free(word->text);
            free(word);
        }
    }
    return checksum;
}

static uint64_t run_text(uint64_t count)
{
    static struct word *table[TABLE_BUCKETS];
    uint64_t random = 17;
    uint64_t checksum = 0;
    for (uint64_t i = 0; i < count; i++) {
        char **lines = NULL;
        size_t line_count = 0;
        for (size_t n = 0; n < 4000; n++) {
            struct buffer line = {0};
            uint32_t words = 4 + bench_below(&random, 12);
            for (uint32_t w = 0; w < words; w++) {
                char word[24];
                uint32_t rank = bench_below(&random, 1 + bench_below(&random, 20000));
                int length = snprintf(word, sizeof(word), "w%xterm%u ", rank, rank % 37);
                buffer_append(&line, word, (size_t)length);
            }
            lines = bench_must(realloc(lines, (line_count + 1) * sizeof(*lines)));
            lines[line_count++] = line.data;
        }
        for (size_t n = 0; n < line_count; n++) {
            for (const char *at = lines[n]; *at != '\0';) {
                size_t length = strcspn(at, " ");
                count_word(table, at, length);
                at += length + 1;
            }
            free(lines[n]);
        }
        free(lines);
        checksum += empty_table(table);
    }
    return checksum;
}

/* --- large and middle blocks --- */

static uint64_t run_large(uint64_t count)
{
    uint64_t random = 19;
    uint64_t checksum = 0;
    char *live[4] = {0};
    for (uint64_t i = 0; i < count; i++) {
        size_t size = ((size_t)5 << 20) + bench_below(&random, 20 << 20);
        char **slot = &live[i % BENCH_COUNT_OF(live)];
        free(*slot);
        *slot = bench_must(malloc(size));
        for (size_t at = 0; at < size; at += 4096) {
            (*slot)[at] = 1;
        }
        checksum += size;
    }
    for (size_t i = 0; i < BENCH_COUNT_OF(live); i++) {
        free(live[i]);
    }
    return checksum;
}

static uint64_t run_buffers(uint64_t count)
{
    uint64_t random = 23;
    uint64_t checksum = 0;
    char *live[40] = {0};
    for (uint64_t i = 0; i < count; i++) {
        uint32_t octave = bench_below(&random, 10);
        size_t size = ((size_t)1024 << octave) + bench_below(&random, (uint64_t)1024 << octave);
        char **slot = &live[bench_below(&random, BENCH_COUNT_OF(live))];
        *slot = bench_must(realloc(*slot, size));
        (*slot)[0] = (*slot)[size - 1] = 1;
        checksum += size;
    }
    for (size_t i = 0; i < BENCH_COUNT_OF(live); i++) {
        free(live[i]);
    }
    return checksum;
}

static const struct pattern {
    const char *name;
    uint64_t (*run)(uint64_t count);
    uint64_t count;
} patterns[] = {
    {"json", run_json, 40},          {"algebra", run_algebra, 20000}, {"bignum", run_bignum, 8000},
    {"cover", run_cover, 2000},      {"text", run_text, 70},          {"large", run_large, 150},
    {"buffers", run_buffers, 60000},
};

int main(int argc, char **argv)
{
    const struct pattern *pattern = &patterns[BENCH_FIND(patterns, argc > 1 ? argv[1] : NULL)];
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : pattern->count;
    bench_report(pattern->name, "checksum", (double)(pattern->run(count) % 1000000007), "");
    return 0;
}
