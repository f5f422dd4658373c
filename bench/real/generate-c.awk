# Writes a C file for compilers to work on: N functions (awk -v N=…) with structures, loops, switches and calls.
BEGIN {
    print "typedef unsigned long word;"
    print "extern int printf(const char *, ...);"
    for (i = 0; i < N; i++) {
        printf "struct record%d { word key; word values[%d]; struct record%d *next; char name[%d]; };\n", i, i % 13 + 3, i, i % 7 * 8 + 8
        printf "static word hash%d(const struct record%d *record, word seed)\n{\n", i, i
        printf "    word sum = seed * %dul;\n", i * 2654435761 % 1000003 + 1
        printf "    for (; record; record = record->next) {\n"
        printf "        for (int i = 0; i < %d; i++)\n            sum = (sum << %d) ^ (record->values[i] + (sum >> %d));\n", i % 13 + 3, i % 11 + 1, i % 17 + 3
        printf "        switch (record->key %% 8) {\n"
        for (c = 0; c < 8; c++)
            printf "        case %d: sum += record->name[%d] * %dul; break;\n", c, c, c * i + 1
        print "        }\n    }"
        if (i > 0)
            printf "    if (sum & %d) { struct record%d other = {sum, {1, 2, 3}, 0, \"n%d\"}; sum ^= hash%d(&other, sum >> 3); }\n", 2 ^ (i % 9), i - 1, i, i - 1
        print "    return sum;\n}"
        printf "word entry%d(word seed)\n{\n    struct record%d a = {seed, {4, 5, 6}, 0, \"first\"};\n    struct record%d b = {seed + 1, {7, 8, 9}, &a, \"second\"};\n", i, i, i
        printf "    word result = hash%d(&b, seed);\n    printf(\"entry %d of %%lu is %%lu\\n\", seed, result);\n    return result;\n}\n", i, i
    }
    print "int main(int argc, char **argv)\n{\n    word total = (word)argc + (word)(argv != 0);"
    for (i = 0; i < N; i++)
        printf "    total += entry%d(total);\n", i
    print "    return (int)(total & 127);\n}"
}
