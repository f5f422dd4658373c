/*
 * A decoder of x86-64 instructions, as far as memory operands go.
 *
 * An instruction is: legacy prefixes, REX; or VEX or EVEX, which hold REX, the mandatory prefix (66, F3, F2) and the map;
 * then an opcode in one of four maps (one byte; 0F; 0F38; 0F3A), ModRM with SIB and displacement, an immediate. What is
 * needed of an opcode is one byte of a table: whether it has a ModRM byte, how long its immediate is, and the *shape* of
 * its memory operand: size and direction. Shapes that depend on the operand size, on W, on the vector's length or on
 * the mandatory prefix are resolved when all of these are known.
 *
 * The one-byte map is a table of strings, a character an opcode, sixteen a line, so that it can be held against the
 * manual's opcode map. In the other maps neighbours are alike and the mandatory prefix selects the instruction: they are lists
 * of ranges of opcodes with a size for each prefix.
 *
 * EVEX scales a one-byte displacement by the operand's size (for a broadcast one, by the element's), so a wrong
 * size would be a wrong address: tests compare both with objdump over whole libraries.
 *
 * Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter 2 and appendix A.
 */
#include "guard/decode.h"

enum { LENGTH_MOST = 15 };

/* As VEX and EVEX number them. */
enum map { MAP_ONE, MAP_0F, MAP_38, MAP_3A };

/* Mandatory prefixes, in VEX's order. */
enum prefix { PREFIX_NONE, PREFIX_66, PREFIX_F3, PREFIX_F2 };

struct decoder {
    const uint8_t *at;
    enum map map;
    uint8_t opcode, modrm;
    bool has_66, has_f2, has_f3, has_67;
    bool is_vex, is_evex;
    bool is_broadcast; /* EVEX: one element, for all of the vector */
    uint8_t rex;       /* W 8, R 4, X 2, B 1 */
    unsigned vector;   /* bytes of the vector: 16, 32, 64 */
    char segment;
    struct fh_instruction *out;
};

static uint8_t take(struct decoder *d)
{
    return *d->at++;
}

static bool has_w(const struct decoder *d)
{
    return (d->rex & 8) != 0;
}

static enum prefix prefix_of(const struct decoder *d)
{
    return d->has_f2 ? PREFIX_F2 : d->has_f3 ? PREFIX_F3 : d->has_66 ? PREFIX_66 : PREFIX_NONE;
}

/* ---- Shapes -------------------------------------------------------------------------------------------- */

/*
 * The size of an operand, as the tables say it:
 *   b w d q x y z  1, 2, 4, 8, 16, 32, 64 bytes      t  10
 *   v  2, 4 or 8 by the operand size      o  2 or 4 by it      s  2 or 8: pushes      f  a far pointer
 *   e  4 or 8 by W      u  1 or 2 by W      k  8 or 16 by W
 *   L  the vector's length      H  half of it      Q  a quarter      E  an eighth
 *   D  8 of a vector of 16 bytes, else its length (movddup)
 *   ?  not known: it depends on what the processor saves      -  not a memory operand
 * And its direction: r read, w written, m both, n neither (an address only: lea, prefetch).
 */
static size_t operand_bytes(const struct decoder *d)
{
    return has_w(d) ? 8 : d->has_66 ? 2 : 4;
}

static size_t bytes_of(const struct decoder *d, char size)
{
    static const char fixed[] = "bwdqxyz";
    for (unsigned i = 0; fixed[i] != 0; i++)
        if (fixed[i] == size)
            return (size_t)1 << i;
    switch (size) {
    case 't':
        return 10;
    case 'v':
        return operand_bytes(d);
    case 'o':
        return d->has_66 ? 2 : 4;
    case 's':
        return d->has_66 ? 2 : 8;
    case 'f':
        return 2 + operand_bytes(d);
    case 'e':
        return has_w(d) ? 8 : 4;
    case 'u':
        return has_w(d) ? 2 : 1;
    case 'k':
        return has_w(d) ? 16 : 8;
    case 'L':
        return d->vector;
    case 'H':
        return d->vector / 2;
    case 'Q':
        return d->vector / 4;
    case 'E':
        return d->vector / 8;
    case 'D':
        return d->vector == 16 ? 8 : d->vector;
    default:
        return 0;
    }
}

/* ---- Operands ------------------------------------------------------------------------------------------ */

static struct fh_operand *add_operand(struct decoder *d, char size, char way)
{
    struct fh_operand *operand = &d->out->operands[d->out->count++];
    *operand = (struct fh_operand){
        .base = FH_NO_REGISTER,
        .index = FH_NO_REGISTER,
        .scale = 1,
        .segment = d->segment,
        .is_read = way == 'r' || way == 'm',
        .is_written = way == 'w' || way == 'm',
        .is_short = d->has_67,
        .size = d->is_broadcast ? has_w(d) ? 8 : 4 : bytes_of(d, size),
    };
    return operand;
}

/* Through one register: string instructions and the stack. */
static void add_implicit(struct decoder *d, unsigned base, size_t size, char way,
                         int64_t displacement)
{
    struct fh_operand *operand = add_operand(d, '-', way);
    operand->base = (uint8_t)base;
    operand->size = size;
    operand->displacement = displacement;
    if (base == FH_REGISTER_RSP) {
        operand->segment = 0;
        operand->is_short = false;
    }
}

static void add_push(struct decoder *d, size_t size)
{
    add_implicit(d, FH_REGISTER_RSP, size, 'w', -(int64_t)size);
}

static void add_pop(struct decoder *d, size_t size)
{
    add_implicit(d, FH_REGISTER_RSP, size, 'r', 0);
}

static int64_t take_signed(struct decoder *d, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)take(d) << (8 * i);
    unsigned unused = 64 - 8 * bytes;
    return (int64_t)(value << unused) >> unused;
}

static void take_sib(struct decoder *d, struct fh_operand *operand)
{
    uint8_t sib = take(d);
    uint8_t index = (uint8_t)((sib >> 3 & 7) | (d->rex & 2) << 2);
    uint8_t base = (uint8_t)((sib & 7) | (d->rex & 1) << 3);
    if (index != FH_REGISTER_RSP || operand->is_vector) {
        operand->index = index;
        operand->scale = (uint8_t)(1 << (sib >> 6));
    }
    /* rbp and r13 as a base need a displacement; without one there is no base but 4 bytes of it. */
    if ((sib & 7) == 5 && d->modrm >> 6 == 0)
        operand->displacement = take_signed(d, 4);
    else
        operand->base = base;
}

/* ModRM's memory operand. The displacement of rip is from the instruction's end: added when that is known. */
static void take_memory(struct decoder *d, struct fh_operand *operand)
{
    uint8_t mod = d->modrm >> 6, rm = d->modrm & 7;
    if (rm == 4) {
        take_sib(d, operand);
    } else if (rm == 5 && mod == 0) {
        operand->base = FH_REGISTER_RIP;
        operand->displacement = take_signed(d, 4);
    } else {
        operand->base = (uint8_t)(rm | (d->rex & 1) << 3);
    }
    if (mod == 1) {
        size_t scale = d->is_evex && operand->size != 0 ? operand->size : 1;
        operand->displacement = take_signed(d, 1) * (int64_t)scale;
    } else if (mod == 2) {
        operand->displacement = take_signed(d, 4);
    }
}

static bool is_memory(const struct decoder *d)
{
    return d->modrm >> 6 != 3;
}

static struct fh_operand *take_operand(struct decoder *d, char size, char way)
{
    if (!is_memory(d))
        return NULL;
    struct fh_operand *operand = add_operand(d, size, way);
    take_memory(d, operand);
    if (way == 'n')
        d->out->count--;
    return operand;
}

/* ---- The one-byte map ---------------------------------------------------------------------------------- */

/*
 * How an opcode of the one-byte map goes on; upper case where its ModRM operand is written:
 *   b v w o f s      ModRM, of that size, read      B V      read and written     C U  written only (mov)
 *   -  nothing more      1 2 4  an immediate of so many bytes     z  of 2 or 4      j  of 4 whatever the prefix
 *   p  pushes   q  pops   x  see one_byte_special    .  not in long mode
 */
static const char one_byte[16][17] = {
    /*  0123456789abcdef */
    "BVbv1z..BVbv1z.x", /* 0 */
    "BVbv1z..BVbv1z..", /* 1: adc sbb */
    "BVbv1z..BVbv1z..", /* 2 */
    "BVbv1z..bvbv1z..", /* 3: cmp writes nothing */
    "................", /* 4: REX */
    "ppppppppqqqqqqqq", /* 5 */
    "...dxxxxxvxvxxxx", /* 6 */
    "1111111111111111", /* 7 */
    "xx.xbvBVCUbvxnxx", /* 8 */
    "----------.-xx--", /* 9 */
    "xxxxxxxx1zxxxxxx", /* a */
    "11111111xxxxxxxx", /* b */
    "xxxx..xxxxxx-1.x", /* c */
    "xxxx...xxxxxxxxx", /* d */
    "111111111jxx----", /* e: loops and in/out have a byte, call and jmp four */
    "-x--.-xx------xx", /* f */
};

static void skip(struct decoder *d, unsigned bytes)
{
    d->at += bytes;
}

/* An immediate of the operand's size, but at most 4 bytes. */
static void skip_z(struct decoder *d)
{
    skip(d, d->has_66 && !has_w(d) ? 2 : 4);
}

static size_t stack_bytes(const struct decoder *d)
{
    return d->has_66 ? 2 : 8;
}

enum { RSI = 6, RDI = 7, RBX = 3, RBP = 5 };

static unsigned modrm_digit(const struct decoder *d)
{
    return d->modrm >> 3 & 7;
}

/* movs, cmps, stos, lods, scas, ins, outs: opcode's lowest bit clear means bytes. */
static bool string_instruction(struct decoder *d)
{
    size_t size = (d->opcode & 1) == 0 ? 1 : operand_bytes(d);
    unsigned kind = d->opcode & 0xfe;
    if (kind == 0x6c || kind == 0x6e)
        size = (d->opcode & 1) == 0 ? 1 : d->has_66 ? 2 : 4;
    if (kind == 0xa4 || kind == 0xa6 || kind == 0xac || kind == 0x6e)
        add_implicit(d, RSI, size, 'r', 0);
    if (kind == 0xa4 || kind == 0xaa || kind == 0x6c)
        add_implicit(d, RDI, size, 'w', 0);
    if (kind == 0xa6 || kind == 0xae)
        add_implicit(d, RDI, size, 'r', 0);
    /* rdi is always in es, which has no base. */
    d->out->operands[d->out->count - 1].segment =
        d->out->operands[d->out->count - 1].base == RDI ? 0 : d->segment;
    return true;
}

static bool move_absolute(struct decoder *d)
{
    struct fh_operand *operand =
        add_operand(d, (d->opcode & 1) == 0 ? 'b' : 'v', d->opcode < 0xa2 ? 'r' : 'w');
    operand->displacement = take_signed(d, d->has_67 ? 4 : 8);
    return true;
}

static bool group_f6(struct decoder *d)
{
    bool is_byte = d->opcode == 0xf6;
    unsigned digit = modrm_digit(d);
    /* test; not and neg; mul, imul, div, idiv */
    take_operand(d, is_byte ? 'b' : 'v', digit == 2 || digit == 3 ? 'm' : 'r');
    if (digit < 2 && is_byte)
        skip(d, 1);
    else if (digit < 2)
        skip_z(d);
    return true;
}

static bool group_ff(struct decoder *d)
{
    unsigned digit = modrm_digit(d);
    static const char sizes[] = {'v', 'v', 'q', 'f', 'q', 'f', 's', 0};
    static const char ways[] = {'m', 'm', 'r', 'r', 'r', 'r', 'r', 0};
    if (digit == 7)
        return false;
    take_operand(d, sizes[digit], ways[digit]);
    if (digit == 2 || digit == 4) {
        d->out->is_indirect = true;
        if (!is_memory(d))
            d->out->target = (uint8_t)((d->modrm & 7) | (d->rex & 1) << 3);
    }
    if (digit == 2 && is_memory(d))
        add_push(d, 8);
    else if (digit == 6)
        add_push(d, stack_bytes(d));
    return true;
}

/* Floating point of the x87: sizes and directions by opcode and ModRM's digit. */
static bool x87(struct decoder *d)
{
    static const char sizes[8][9] = {"dddddddd", "d-dd-w-w", "dddddddd", "dddd-t-t",
                                     "qqqqqqqq", "qqqq---w", "wwwwwwww", "wwwwtqtq"};
    static const char ways[8][9] = {"rrrrrrrr", "r-wwrrww", "rrrrrrrr", "rwww-r-w",
                                    "rrrrrrrr", "rwwwr-ww", "rrrrrrrr", "rwwwrrww"};
    unsigned row = d->opcode & 7, digit = modrm_digit(d);
    struct fh_operand *operand = take_operand(d, sizes[row][digit], ways[row][digit]);
    if (operand == NULL)
        return true;
    if (row == 1 && (digit == 4 || digit == 6)) /* fldenv, fnstenv */
        operand->size = d->has_66 ? 14 : 28;
    if (row == 5 && (digit == 4 || digit == 6)) /* frstor, fnsave */
        operand->size = d->has_66 ? 94 : 108;
    return true;
}

static bool one_byte_special(struct decoder *d)
{
    switch (d->opcode) {
    case 0x68: /* push imm32, imm8 */
        skip_z(d);
        add_push(d, stack_bytes(d));
        return true;
    case 0x6a:
        skip(d, 1);
        add_push(d, stack_bytes(d));
        return true;
    case 0x69: /* imul r, r/m, imm */
    case 0x6b:
        d->modrm = take(d);
        take_operand(d, 'v', 'r');
        if (d->opcode == 0x6b)
            skip(d, 1);
        else
            skip_z(d);
        return true;
    case 0x6c:
    case 0x6d:
    case 0x6e:
    case 0x6f:
    case 0xa4:
    case 0xa5:
    case 0xa6:
    case 0xa7:
    case 0xaa:
    case 0xab:
    case 0xac:
    case 0xad:
    case 0xae:
    case 0xaf:
        return string_instruction(d);
    case 0x80: /* add … cmp with an immediate */
    case 0x81:
    case 0x83:
        d->modrm = take(d);
        take_operand(d, d->opcode == 0x80 ? 'b' : 'v', modrm_digit(d) == 7 ? 'r' : 'm');
        if (d->opcode == 0x81)
            skip_z(d);
        else
            skip(d, 1);
        return true;
    case 0x8c: /* mov from and to a segment register */
        d->modrm = take(d);
        take_operand(d, 'w', 'w');
        return true;
    case 0x8e:
        d->modrm = take(d);
        take_operand(d, 'w', 'r');
        return true;
    case 0x8f: /* pop to memory */
        d->modrm = take(d);
        take_operand(d, 's', 'w');
        add_pop(d, stack_bytes(d));
        return true;
    case 0x9c:
        add_push(d, stack_bytes(d));
        return true;
    case 0x9d:
        add_pop(d, stack_bytes(d));
        return true;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
        return move_absolute(d);
    case 0xc0: /* shifts */
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        d->modrm = take(d);
        take_operand(d, (d->opcode & 1) == 0 ? 'b' : 'v', 'm');
        skip(d, d->opcode < 0xd0);
        return true;
    case 0xc2:
    case 0xc3: /* ret */
        skip(d, d->opcode == 0xc2 ? 2 : 0);
        d->out->is_indirect = true;
        add_pop(d, 8);
        return true;
    case 0xc6: /* mov imm */
    case 0xc7:
        d->modrm = take(d);
        take_operand(d, d->opcode == 0xc6 ? 'b' : 'v', 'w');
        if (d->opcode == 0xc6)
            skip(d, 1);
        else
            skip_z(d);
        return true;
    case 0xc8: /* enter */
        skip(d, 3);
        add_push(d, stack_bytes(d));
        return true;
    case 0xc9: /* leave */
        add_implicit(d, RBP, stack_bytes(d), 'r', 0);
        return true;
    case 0xca:
    case 0xcb:
    case 0xcf: /* far returns, iret */
        skip(d, d->opcode == 0xca ? 2 : 0);
        add_pop(d, operand_bytes(d) * (d->opcode == 0xcf ? 5 : 2));
        return true;
    case 0xd7: { /* xlat: al is added too, which is not said */
        struct fh_operand *operand = add_operand(d, 'b', 'r');
        operand->base = RBX;
        operand->is_vector = true;
        return true;
    }
    case 0xd8:
    case 0xd9:
    case 0xda:
    case 0xdb:
    case 0xdc:
    case 0xdd:
    case 0xde:
    case 0xdf:
        d->modrm = take(d);
        return x87(d);
    case 0xe8: /* call */
        skip(d, 4);
        add_push(d, 8);
        return true;
    case 0xeb:
        skip(d, 1);
        return true;
    case 0xf6:
    case 0xf7:
        d->modrm = take(d);
        return group_f6(d);
    case 0xfe:
        d->modrm = take(d);
        take_operand(d, 'b', 'm');
        return modrm_digit(d) < 2;
    case 0xff:
        d->modrm = take(d);
        return group_ff(d);
    default:
        if (d->opcode < 0xb8 || d->opcode > 0xbf)
            return false;
        skip(d, has_w(d) ? 8 : d->has_66 ? 2 : 4); /* mov r, imm */
        return true;
    }
}

static bool decode_one_byte(struct decoder *d)
{
    char how = one_byte[d->opcode >> 4][d->opcode & 15];
    switch (how) {
    case '-':
        return true;
    case '1':
        skip(d, 1);
        return true;
    case 'j':
        skip(d, 4);
        return true;
    case 'z':
        skip_z(d);
        return true;
    case 'p':
        add_push(d, stack_bytes(d));
        return true;
    case 'q':
        add_pop(d, stack_bytes(d));
        return true;
    case 'b':
    case 'v':
    case 'd':
    case 'n':
        d->modrm = take(d);
        take_operand(d, how, how == 'n' ? 'n' : 'r');
        return true;
    case 'B':
    case 'V':
        d->modrm = take(d);
        take_operand(d, how == 'B' ? 'b' : 'v', 'm');
        return true;
    case 'C':
    case 'U':
        d->modrm = take(d);
        take_operand(d, how == 'C' ? 'b' : 'v', 'w');
        return true;
    case 'x':
        return one_byte_special(d);
    default:
        return false;
    }
}

/* ---- The other maps ------------------------------------------------------------------------------------ */

/* Opcodes [first, last], their operand's size without a mandatory prefix and with 66, F3, F2, and its direction. */
struct range {
    uint8_t first, last;
    char sizes[5];
    char way;
};

/* Of legacy instructions, and of those VEX and EVEX ones that are their wide forms. */
static const struct range map_0f[] = {
    {0x02, 0x03, "wwww", 'r'},                            /* lar, lsl */
    {0x0d, 0x0d, "bbbb", 'n'},                            /* prefetchw */
    {0x10, 0x10, "LLdq", 'r'},                            /* movups … movsd */
    {0x11, 0x11, "LLdq", 'w'}, {0x12, 0x12, "qqLD", 'r'}, /* movlps, movsldup, movddup */
    {0x13, 0x13, "qq--", 'w'}, {0x14, 0x15, "LL--", 'r'}, /* unpck */
    {0x16, 0x16, "qqL-", 'r'}, {0x17, 0x17, "qq--", 'w'},
    {0x18, 0x1f, "bbbb", 'n'}, /* hints */
    {0x28, 0x28, "LL--", 'r'}, {0x29, 0x29, "LL--", 'w'},
    {0x2a, 0x2a, "qqee", 'r'}, /* cvtpi2ps … cvtsi2sd */
    {0x2b, 0x2b, "LLdq", 'w'}, {0x2c, 0x2d, "qxdq", 'r'},
    {0x2e, 0x2f, "dqdq", 'r'}, /* comis */
    {0x40, 0x4f, "vvvv", 'r'}, /* cmov */
    {0x51, 0x51, "LLdq", 'r'}, {0x52, 0x53, "L-d-", 'r'},
    {0x54, 0x57, "LL--", 'r'}, {0x58, 0x59, "LLdq", 'r'},
    {0x5a, 0x5a, "HLdq", 'r'}, /* cvtps2pd, cvtpd2ps */
    {0x5b, 0x5b, "LLL-", 'r'}, {0x5c, 0x5f, "LLdq", 'r'},
    {0x60, 0x62, "dL--", 'r'}, /* punpckl: MMX's reads half */
    {0x63, 0x6b, "qL--", 'r'}, {0x6c, 0x6d, "-L--", 'r'},
    {0x6e, 0x6e, "ee--", 'r'}, {0x6f, 0x6f, "qLLL", 'r'},
    {0x70, 0x70, "qLLL", 'r'}, {0x74, 0x76, "qL--", 'r'},
    {0x7c, 0x7d, "-L-L", 'r'}, {0x7e, 0x7e, "ee--", 'w'},
    {0x7f, 0x7f, "qLLL", 'w'}, {0x90, 0x9f, "bbbb", 'w'}, /* setcc */
    {0xa3, 0xa3, "vvvv", 'r'}, /* bt: its address moves with the bit's number, which is not said */
    {0xa4, 0xa5, "vvvv", 'm'}, {0xab, 0xab, "vvvv", 'm'},
    {0xac, 0xad, "vvvv", 'm'}, {0xaf, 0xaf, "vvvv", 'r'},
    {0xb0, 0xb0, "bbbb", 'm'}, /* cmpxchg */
    {0xb1, 0xb1, "vvvv", 'm'}, {0xb2, 0xb2, "ffff", 'r'},
    {0xb3, 0xb3, "vvvv", 'm'}, {0xb4, 0xb5, "ffff", 'r'},
    {0xb6, 0xb6, "bbbb", 'r'},                            /* movzx */
    {0xb7, 0xb7, "wwww", 'r'}, {0xb8, 0xb8, "--v-", 'r'}, /* popcnt */
    {0xbb, 0xbb, "vvvv", 'm'}, {0xbc, 0xbd, "vvvv", 'r'},
    {0xbe, 0xbe, "bbbb", 'r'}, {0xbf, 0xbf, "wwww", 'r'},
    {0xc0, 0xc0, "bbbb", 'm'}, /* xadd */
    {0xc1, 0xc1, "vvvv", 'm'}, {0xc2, 0xc2, "LLdq", 'r'},
    {0xc3, 0xc3, "e---", 'w'}, /* movnti */
    {0xc4, 0xc4, "ww--", 'r'}, {0xc6, 0xc6, "LL--", 'r'},
    {0xd0, 0xd0, "-L-L", 'r'}, {0xd1, 0xd3, "qx--", 'r'}, /* shifts by a vector's lowest */
    {0xd4, 0xd5, "qL--", 'r'}, {0xd6, 0xd6, "-q--", 'w'},
    {0xd8, 0xe0, "qL--", 'r'}, {0xe1, 0xe2, "qx--", 'r'},
    {0xe3, 0xe5, "qL--", 'r'}, {0xe6, 0xe6, "-LHL", 'r'},
    {0xe7, 0xe7, "qL--", 'w'}, /* movnt */
    {0xe8, 0xef, "qL--", 'r'}, {0xf0, 0xf0, "---L", 'r'},
    {0xf1, 0xf3, "qx--", 'r'}, {0xf4, 0xf6, "qL--", 'r'},
    {0xf8, 0xfe, "qL--", 'r'},
};

/* With VEX: the mask registers' moves. */
static const struct range map_0f_vex[] = {
    {0x90, 0x90, "wb--", 'r'},
    {0x91, 0x91, "wb--", 'w'},
};

/* With EVEX: conversions that legacy instructions don't have; for some the source is half as wide. */
static const struct range map_0f_evex[] = {
    {0x78, 0x79, "LLdq", 'r'},
    {0x7a, 0x7a, "-LHL", 'r'},
    {0x7b, 0x7b, "-Lee", 'r'},
};

static const struct range map_38[] = {
    {0x00, 0x0b, "qL--", 'r'}, {0x0c, 0x10, "LL--", 'r'}, {0x13, 0x13, "-H--", 'r'}, /* vcvtph2ps */
    {0x14, 0x17, "-L--", 'r'}, {0x18, 0x18, "-d--", 'r'}, /* broadcasts */
    {0x19, 0x19, "-q--", 'r'}, {0x1a, 0x1a, "-x--", 'r'}, {0x1b, 0x1b, "-y--", 'r'},
    {0x1c, 0x1f, "qL--", 'r'}, {0x20, 0x20, "-H--", 'r'}, /* pmovsx */
    {0x21, 0x21, "-Q--", 'r'}, {0x22, 0x22, "-E--", 'r'}, {0x23, 0x23, "-H--", 'r'},
    {0x24, 0x24, "-Q--", 'r'}, {0x25, 0x25, "-H--", 'r'}, {0x28, 0x29, "-L--", 'r'},
    {0x2a, 0x2b, "-L--", 'r'}, {0x2c, 0x2d, "-L--", 'r'}, /* vmaskmov */
    {0x2e, 0x2f, "-L--", 'w'}, {0x30, 0x30, "-H--", 'r'}, /* pmovzx */
    {0x31, 0x31, "-Q--", 'r'}, {0x32, 0x32, "-E--", 'r'}, {0x33, 0x33, "-H--", 'r'},
    {0x34, 0x34, "-Q--", 'r'}, {0x35, 0x35, "-H--", 'r'}, {0x36, 0x40, "-L--", 'r'},
    {0x41, 0x41, "-x--", 'r'}, {0x45, 0x47, "-L--", 'r'}, {0x50, 0x53, "LLLL", 'r'},
    {0x58, 0x58, "-d--", 'r'}, {0x59, 0x59, "-q--", 'r'}, {0x5a, 0x5a, "-x--", 'r'},
    {0x5b, 0x5b, "-y--", 'r'}, {0x78, 0x78, "-b--", 'r'}, {0x79, 0x79, "-w--", 'r'},
    {0x8c, 0x8c, "-L--", 'r'},                            /* vpmaskmov */
    {0x8e, 0x8e, "-L--", 'w'}, {0x90, 0x93, "-e--", 'r'}, /* gathers */
    {0x96, 0x98, "-L--", 'r'},                            /* fused multiply and add */
    {0x99, 0x99, "-e--", 'r'}, {0x9a, 0x9a, "-L--", 'r'}, {0x9b, 0x9b, "-e--", 'r'},
    {0x9c, 0x9c, "-L--", 'r'}, {0x9d, 0x9d, "-e--", 'r'}, {0x9e, 0x9e, "-L--", 'r'},
    {0x9f, 0x9f, "-e--", 'r'}, {0xa6, 0xa8, "-L--", 'r'}, {0xa9, 0xa9, "-e--", 'r'},
    {0xaa, 0xaa, "-L--", 'r'}, {0xab, 0xab, "-e--", 'r'}, {0xac, 0xac, "-L--", 'r'},
    {0xad, 0xad, "-e--", 'r'}, {0xae, 0xae, "-L--", 'r'}, {0xaf, 0xaf, "-e--", 'r'},
    {0xb4, 0xb8, "-L--", 'r'}, {0xb9, 0xb9, "-e--", 'r'}, {0xba, 0xba, "-L--", 'r'},
    {0xbb, 0xbb, "-e--", 'r'}, {0xbc, 0xbc, "-L--", 'r'}, {0xbd, 0xbd, "-e--", 'r'},
    {0xbe, 0xbe, "-L--", 'r'}, {0xbf, 0xbf, "-e--", 'r'}, {0xc8, 0xcd, "xx--", 'r'}, /* SHA */
    {0xcf, 0xcf, "-L--", 'r'}, {0xdb, 0xdf, "-L--", 'r'},                            /* AES */
    {0xf0, 0xf0, "vv-b", 'r'},                            /* movbe, crc32 */
    {0xf1, 0xf1, "vv-v", 'r'}, {0xf2, 0xf2, "e---", 'r'}, /* andn, bzhi, pdep, … */
    {0xf3, 0xf3, "e---", 'r'}, {0xf5, 0xf5, "e-ee", 'r'}, {0xf6, 0xf6, "-eee", 'r'},
    {0xf7, 0xf7, "eeee", 'r'}, {0xf8, 0xf8, "-zzz", 'r'}, /* movdir64b, enqcmd */
    {0xf9, 0xf9, "e---", 'w'},                            /* movdiri */
};

/* EVEX's own, and where it is wider than VEX. */
static const struct range map_38_evex[] = {
    {0x10, 0x10, "-LE-", 'r'}, /* shifts by words; down-conversions with F3 */
    {0x11, 0x12, "-L--", 'r'}, {0x14, 0x16, "-L--", 'r'}, {0x18, 0x18, "-d--", 'r'},
    {0x1a, 0x1a, "-x--", 'r'}, {0x1b, 0x1b, "-y--", 'r'}, {0x26, 0x27, "-LL-", 'r'},
    {0x2c, 0x2c, "-L--", 'r'}, /* vscalef */
    {0x2d, 0x2d, "-e--", 'r'}, {0x42, 0x42, "-L--", 'r'}, {0x43, 0x43, "-e--", 'r'},
    {0x44, 0x44, "-L--", 'r'}, {0x4c, 0x4c, "-L--", 'r'}, {0x4d, 0x4d, "-e--", 'r'},
    {0x4e, 0x4e, "-L--", 'r'}, {0x4f, 0x4f, "-e--", 'r'}, {0x52, 0x53, "-LLx", 'r'},
    {0x54, 0x55, "-L--", 'r'}, {0x62, 0x62, "-u--", 'r'}, /* vpexpandb, w: an element at a time */
    {0x63, 0x63, "-u--", 'w'}, {0x64, 0x66, "-L--", 'r'}, {0x68, 0x68, "---L", 'r'},
    {0x70, 0x73, "-LLL", 'r'}, {0x75, 0x77, "-L--", 'r'}, {0x7d, 0x7f, "-L--", 'r'},
    {0x83, 0x83, "-L--", 'r'}, {0x88, 0x89, "-e--", 'r'}, /* vexpand */
    {0x8a, 0x8b, "-e--", 'w'}, {0x8d, 0x8d, "-L--", 'r'}, {0x8f, 0x8f, "-L--", 'r'},
    {0x9a, 0x9a, "-L-x", 'r'}, {0x9b, 0x9b, "-e-x", 'r'}, {0xa0, 0xa3, "-e--", 'w'}, /* scatters */
    {0xaa, 0xaa, "-L-x", 'r'}, {0xab, 0xab, "-e-x", 'r'}, {0xc4, 0xc4, "-L--", 'r'},
    {0xc6, 0xc7, "-e--", 'n'}, /* gather and scatter prefetches */
    {0xc8, 0xc8, "-L--", 'r'}, {0xca, 0xca, "-L--", 'r'}, {0xcb, 0xcb, "-e--", 'r'},
    {0xcc, 0xcc, "-L--", 'r'}, {0xcd, 0xcd, "-e--", 'r'},
};

/* EVEX with F3: a vector's elements made narrower, on the way to memory. */
static const struct range map_38_narrow[] = {
    {0x10, 0x10, "--H-", 'w'}, {0x11, 0x11, "--Q-", 'w'}, {0x12, 0x12, "--E-", 'w'},
    {0x13, 0x13, "--H-", 'w'}, {0x14, 0x14, "--Q-", 'w'}, {0x15, 0x15, "--H-", 'w'},
    {0x20, 0x20, "--H-", 'w'}, {0x21, 0x21, "--Q-", 'w'}, {0x22, 0x22, "--E-", 'w'},
    {0x23, 0x23, "--H-", 'w'}, {0x24, 0x24, "--Q-", 'w'}, {0x25, 0x25, "--H-", 'w'},
    {0x30, 0x30, "--H-", 'w'}, {0x31, 0x31, "--Q-", 'w'}, {0x32, 0x32, "--E-", 'w'},
    {0x33, 0x33, "--H-", 'w'}, {0x34, 0x34, "--Q-", 'w'}, {0x35, 0x35, "--H-", 'w'},
};

static const struct range map_3a[] = {
    {0x00, 0x06, "-L--", 'r'}, {0x08, 0x09, "LL--", 'r'}, {0x0a, 0x0a, "wd--", 'r'},
    {0x0b, 0x0b, "-q--", 'r'}, {0x0c, 0x0e, "-L--", 'r'}, {0x0f, 0x0f, "qL--", 'r'},
    {0x14, 0x14, "-b--", 'w'}, /* extracts */
    {0x15, 0x15, "-w--", 'w'}, {0x16, 0x16, "-e--", 'w'}, {0x17, 0x17, "-d--", 'w'},
    {0x18, 0x18, "-x--", 'r'}, /* inserts */
    {0x19, 0x19, "-x--", 'w'}, {0x1a, 0x1a, "-y--", 'r'}, {0x1b, 0x1b, "-y--", 'w'},
    {0x1d, 0x1d, "-H--", 'w'}, /* vcvtps2ph */
    {0x1e, 0x1f, "-L--", 'r'}, {0x20, 0x20, "-b--", 'r'}, {0x21, 0x21, "-d--", 'r'},
    {0x22, 0x22, "-e--", 'r'}, {0x23, 0x23, "-L--", 'r'}, {0x25, 0x26, "LL--", 'r'},
    {0x27, 0x27, "we--", 'r'}, {0x38, 0x38, "-x--", 'r'}, {0x39, 0x39, "-x--", 'w'},
    {0x3a, 0x3a, "-y--", 'r'}, {0x3b, 0x3b, "-y--", 'w'}, {0x3e, 0x3f, "-L--", 'r'},
    {0x40, 0x41, "-L--", 'r'}, {0x42, 0x44, "-L--", 'r'}, {0x46, 0x46, "-L--", 'r'},
    {0x4a, 0x4c, "-L--", 'r'}, {0x50, 0x50, "-L--", 'r'}, {0x51, 0x51, "-e--", 'r'},
    {0x54, 0x54, "-L--", 'r'}, {0x55, 0x55, "-e--", 'r'}, {0x56, 0x56, "LL--", 'r'},
    {0x57, 0x57, "we--", 'r'}, {0x60, 0x63, "-x--", 'r'}, /* string compares */
    {0x66, 0x66, "LL--", 'r'}, {0x67, 0x67, "we--", 'r'}, {0x70, 0x73, "-L--", 'r'},
    {0xc2, 0xc2, "L-w-", 'r'}, {0xcc, 0xcc, "x---", 'r'}, {0xce, 0xcf, "-L--", 'r'},
    {0xdf, 0xdf, "-x--", 'r'}, {0xf0, 0xf0, "---e", 'r'}, /* rorx */
};

static const struct range *find(const struct decoder *d, const struct range *ranges, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (d->opcode >= ranges[i].first && d->opcode <= ranges[i].last &&
            ranges[i].sizes[prefix_of(d)] != '-')
            return &ranges[i];
    return NULL;
}

#define FIND(d, ranges) find(d, ranges, FH_ARRAY_LEN(ranges))

static const struct range *find_0f(const struct decoder *d)
{
    const struct range *range = NULL;
    if (d->is_vex)
        range = FIND(d, map_0f_vex);
    else if (d->is_evex)
        range = FIND(d, map_0f_evex);
    return range != NULL ? range : FIND(d, map_0f);
}

static const struct range *find_38(const struct decoder *d)
{
    const struct range *range = NULL;
    if (d->is_evex) {
        range = FIND(d, map_38_narrow);
        if (range == NULL)
            range = FIND(d, map_38_evex);
    }
    return range != NULL ? range : FIND(d, map_38);
}

static bool has_immediate_0f(uint8_t opcode)
{
    return (opcode >= 0x70 && opcode <= 0x73) || opcode == 0xa4 || opcode == 0xac ||
           opcode == 0xba || opcode == 0xc2 || (opcode >= 0xc4 && opcode <= 0xc6);
}

/* ---- Special opcodes of the map 0F ---- */

static bool group_15(struct decoder *d) /* 0F AE: fxsave … clflush, ldmxcsr */
{
    static const char sizes[] = "FFdd???b";
    static const char ways[] = "wrrwwrwn";
    unsigned digit = modrm_digit(d);
    if (!is_memory(d))
        return true;
    struct fh_operand *operand = take_operand(d, sizes[digit], ways[digit]);
    if (sizes[digit] == 'F')
        operand->size = 512;
    return true;
}

static bool group_9(struct decoder *d) /* 0F C7: cmpxchg8b, xsavec, xrstors, … */
{
    unsigned digit = modrm_digit(d);
    if (digit == 1)
        take_operand(d, 'k', 'm');
    else if (digit >= 3 && digit <= 5)
        take_operand(d, '?', digit == 3 ? 'r' : 'w');
    else
        take_operand(d, 'q', 'r');
    return true;
}

static bool group_system(struct decoder *d) /* 0F 00 and 01: what a program may use of them */
{
    unsigned digit = modrm_digit(d);
    if (d->opcode == 0) {
        take_operand(d, 'w', digit < 2 ? 'w' : 'r');
        return digit < 6;
    }
    if (digit < 4)
        take_operand(d, 't', digit < 2 ? 'w' : 'r');
    else
        take_operand(d, 'w', digit == 4 ? 'w' : 'r');
    return true;
}

static bool has_no_modrm_0f(uint8_t opcode)
{
    return (opcode >= 0x05 && opcode <= 0x0b) || (opcode >= 0x30 && opcode <= 0x37) ||
           opcode == 0x77 || (opcode >= 0x80 && opcode <= 0x8f) || opcode == 0xa0 ||
           opcode == 0xa1 || opcode == 0xa2 || opcode == 0xa8 || opcode == 0xa9 || opcode == 0xaa ||
           (opcode >= 0xc8 && opcode <= 0xcf);
}

static bool without_modrm_0f(struct decoder *d)
{
    if (d->opcode >= 0x80 && d->opcode <= 0x8f)
        skip(d, 4);
    else if (d->opcode == 0xa0 || d->opcode == 0xa8)
        add_push(d, stack_bytes(d));
    else if (d->opcode == 0xa1 || d->opcode == 0xa9)
        add_pop(d, stack_bytes(d));
    return true;
}

/* Opcodes whose ModRM's digit selects the instruction; *is_known: whether the opcode is one of them. */
static bool group_0f(struct decoder *d, bool *is_known)
{
    *is_known = true;
    switch (d->opcode) {
    case 0x00:
    case 0x01:
        return group_system(d);
    case 0xae:
        return group_15(d);
    case 0xba: /* bt, bts, btr, btc with an immediate */
        take_operand(d, 'v', modrm_digit(d) == 4 ? 'r' : 'm');
        return modrm_digit(d) >= 4;
    case 0xc7:
        return group_9(d);
    case 0xf7: /* maskmovdqu: through rdi */
        if (is_memory(d))
            return false;
        add_implicit(d, RDI, d->has_66 ? 16 : 8, 'w', 0);
        return true;
    default:
        *is_known = false;
        return true;
    }
}

static bool take_ranged(struct decoder *d, const struct range *range)
{
    if (range == NULL)
        return !is_memory(d);
    char size = range->sizes[prefix_of(d)], way = range->way;
    take_operand(d, size, way);
    return true;
}

static bool decode_0f(struct decoder *d)
{
    bool is_known = false, is_good = true;
    if (!d->is_vex && !d->is_evex && has_no_modrm_0f(d->opcode))
        return without_modrm_0f(d);
    if (d->is_vex && d->opcode == 0x77) /* vzeroupper */
        return true;
    d->modrm = take(d);
    if (!d->is_evex)
        is_good = group_0f(d, &is_known);
    if (!is_known && d->opcode == 0x7e && prefix_of(d) == PREFIX_F3)
        take_operand(d, 'q', 'r'); /* movq, the one load of its opcode */
    else if (!is_known)
        is_good = take_ranged(d, find_0f(d));
    skip(d, has_immediate_0f(d->opcode));
    return is_good;
}

/* Gathers and scatters have a vector for an index. */
static bool has_vector_index(const struct decoder *d)
{
    return (d->is_vex || d->is_evex) && ((d->opcode >= 0x90 && d->opcode <= 0x93) ||
                                         (d->is_evex && ((d->opcode >= 0xa0 && d->opcode <= 0xa3) ||
                                                         d->opcode == 0xc6 || d->opcode == 0xc7)));
}

static bool decode_38(struct decoder *d)
{
    d->modrm = take(d);
    const struct range *range = find_38(d);
    if (range == NULL)
        return !is_memory(d);
    if (is_memory(d) && has_vector_index(d)) {
        struct fh_operand *operand = add_operand(d, range->sizes[prefix_of(d)], range->way);
        operand->is_vector = true;
        take_memory(d, operand);
        return true;
    }
    struct fh_operand *operand = take_operand(d, range->sizes[prefix_of(d)], range->way);
    bool is_movbe_store = d->opcode == 0xf1 && !d->has_f2;
    if (operand != NULL && is_movbe_store) {
        operand->is_read = false;
        operand->is_written = true;
    }
    return true;
}

static bool decode_3a(struct decoder *d)
{
    d->modrm = take(d);
    bool is_good = take_ranged(d, FIND(d, map_3a));
    skip(d, 1);
    return is_good;
}

/* ---- Prefixes ------------------------------------------------------------------------------------------ */

static void set_mandatory(struct decoder *d, unsigned pp)
{
    d->has_66 = pp == PREFIX_66;
    d->has_f3 = pp == PREFIX_F3;
    d->has_f2 = pp == PREFIX_F2;
}

static void take_legacy(struct decoder *d)
{
    for (;; d->at++) {
        switch (*d->at) {
        case 0x66:
            d->has_66 = true;
            continue;
        case 0x67:
            d->has_67 = true;
            continue;
        case 0xf2:
            d->has_f2 = true;
            d->has_f3 = false; /* the last one counts */
            continue;
        case 0xf3:
            d->has_f3 = true;
            d->has_f2 = false;
            continue;
        case 0x64:
        case 0x65:
            d->segment = *d->at == 0x64 ? 'f' : 'g';
            continue;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0xf0:
            continue;
        default:
            return;
        }
    }
}

/* C5: R' vvvv L pp;  C4: R'X'B' map, W vvvv L pp. */
static void take_vex(struct decoder *d, bool is_short)
{
    uint8_t first = take(d), last = is_short ? first : take(d);
    d->is_vex = true;
    d->rex = (uint8_t)(~first >> 5 & 4);
    d->map = MAP_0F;
    if (!is_short) {
        d->rex = (uint8_t)((~first >> 5 & 7) | (last >> 4 & 8));
        d->map = (enum map)(first & 0x1f);
    }
    d->vector = (last & 4) != 0 ? 32 : 16;
    set_mandatory(d, last & 3);
}

/* 62: R'X'B'R'' 0 map;  W vvvv 1 pp;  z L'L b V' aaa. */
static void take_evex(struct decoder *d)
{
    uint8_t p0 = take(d), p1 = take(d), p2 = take(d);
    d->is_evex = true;
    d->rex = (uint8_t)((~p0 >> 5 & 7) | (p1 >> 4 & 8));
    d->map = (enum map)(p0 & 7);
    d->is_broadcast = (p2 & 0x10) != 0;
    d->vector = 16u << (p2 >> 5 & 3);
    set_mandatory(d, p1 & 3);
}

static bool decode_map(struct decoder *d)
{
    d->opcode = take(d);
    switch (d->map) {
    case MAP_ONE:
        return decode_one_byte(d);
    case MAP_0F:
        return decode_0f(d);
    case MAP_38:
        return decode_38(d);
    case MAP_3A:
        return decode_3a(d);
    default:
        return false;
    }
}

static bool decode_legacy(struct decoder *d)
{
    if ((*d->at & 0xf0) == 0x40)
        d->rex = take(d) & 15;
    if (*d->at != 0x0f)
        return decode_map(d);
    d->at++;
    d->map = MAP_0F;
    if (*d->at == 0x38 || *d->at == 0x3a)
        d->map = take(d) == 0x38 ? MAP_38 : MAP_3A;
    return decode_map(d);
}

bool fh_decode(const uint8_t *code, struct fh_instruction *out)
{
    struct decoder d = {.at = code, .vector = 16, .out = out};
    *out = (struct fh_instruction){.target = FH_NO_REGISTER};
    take_legacy(&d);
    bool is_good;
    uint8_t first = *d.at;
    if (first == 0xc4 || first == 0xc5 || first == 0x62) {
        d.at++;
        if (first == 0x62)
            take_evex(&d);
        else
            take_vex(&d, first == 0xc5);
        is_good = d.map != MAP_ONE && decode_map(&d);
    } else {
        is_good = decode_legacy(&d);
    }
    out->length = (unsigned)(d.at - code);
    for (unsigned i = 0; i < out->count; i++)
        if (out->operands[i].base == FH_REGISTER_RIP)
            out->operands[i].displacement += out->length;
    return is_good && out->length <= LENGTH_MOST;
}

uintptr_t fh_operand_address(const struct fh_operand *operand,
                             const uint64_t registers[FH_REGISTERS], uint64_t fs_base,
                             uint64_t gs_base)
{
    uint64_t address = (uint64_t)operand->displacement;
    if (operand->base != FH_NO_REGISTER)
        address += registers[operand->base];
    if (operand->index != FH_NO_REGISTER && !operand->is_vector)
        address += registers[operand->index] * operand->scale;
    if (operand->is_short)
        address = (uint32_t)address;
    if (operand->segment != 0)
        address += operand->segment == 'f' ? fs_base : gs_base;
    return address;
}

const char *fh_register_name(unsigned number)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                        "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                        "r12", "r13", "r14", "r15", "rip"};
    return number < FH_ARRAY_LEN(names) ? names[number] : "?";
}
