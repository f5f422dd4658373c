/*
 * The reader of .eh_frame: see cfi.h for what it reads and why it is in three layers.
 *
 * Every read goes through a cursor that knows the end of what may be read; a read past it gives 0
 * and marks the cursor bad, so the parsing code reads straight through and asks once at the end.
 * Expressions that compilers and linkers write in a few fixed forms are recognised by their bytes;
 * the rest is left to the evaluator.
 */
#include "stack/cfi.h"

#include <string.h>

/* Encodings of pointers: the low half says the format, the next three bits what it is relative to.
 */
enum {
    PTR_ABSOLUTE = 0x00,
    PTR_ULEB = 0x01,
    PTR_U2 = 0x02,
    PTR_U4 = 0x03,
    PTR_U8 = 0x04,
    PTR_SLEB = 0x09,
    PTR_S2 = 0x0a,
    PTR_S4 = 0x0b,
    PTR_S8 = 0x0c,
    PTR_FORMAT = 0x0f,
    PTR_PC_RELATIVE = 0x10,
    PTR_HEADER_RELATIVE = 0x30,
    PTR_BASE = 0x70,
    PTR_INDIRECT = 0x80,
    PTR_OMITTED = 0xff,
    TABLE_ENCODING = PTR_HEADER_RELATIVE | PTR_S4,
};

struct cursor {
    const uint8_t *at, *end;
    bool is_bad;
};

static uint64_t take(struct cursor *in, size_t size)
{
    uint64_t value = 0;
    if (in->is_bad || (size_t)(in->end - in->at) < size) {
        in->is_bad = true;
        return 0;
    }
    memcpy(&value, in->at, size);
    in->at += size;
    return value;
}

static uint8_t take_u8(struct cursor *in)
{
    return (uint8_t)take(in, 1);
}

static void skip(struct cursor *in, uint64_t size)
{
    if (in->is_bad || (uint64_t)(in->end - in->at) < size)
        in->is_bad = true;
    else
        in->at += size;
}

static uint64_t take_uleb(struct cursor *in)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = take_u8(in);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0)
            return value;
    }
    in->is_bad = true;
    return 0;
}

static int64_t take_sleb(struct cursor *in)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = take_u8(in);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            if ((byte & 0x40) != 0 && shift + 7 < 64)
                value |= ~(uint64_t)0 << (shift + 7);
            return (int64_t)value;
        }
    }
    in->is_bad = true;
    return 0;
}

static uint64_t take_format(struct cursor *in, uint8_t encoding)
{
    switch (encoding & PTR_FORMAT) {
    case PTR_ABSOLUTE:
    case PTR_U8:
    case PTR_S8:
        return take(in, 8);
    case PTR_U2:
        return take(in, 2);
    case PTR_S2:
        return (uint64_t)(int16_t)take(in, 2);
    case PTR_U4:
        return take(in, 4);
    case PTR_S4:
        return (uint64_t)(int32_t)take(in, 4);
    case PTR_ULEB:
        return take_uleb(in);
    case PTR_SLEB:
        return (uint64_t)take_sleb(in);
    default:
        in->is_bad = true;
        return 0;
    }
}

/* Indirect pointers (personality routines) are read over, never followed: `header` users have none.
 */
static uintptr_t take_pointer(struct cursor *in, uint8_t encoding, uintptr_t header)
{
    if (encoding == PTR_OMITTED)
        return 0;
    uintptr_t here = (uintptr_t)in->at;
    uint64_t value = take_format(in, encoding);
    switch (encoding & PTR_BASE) {
    case 0:
        return value;
    case PTR_PC_RELATIVE:
        return here + value;
    case PTR_HEADER_RELATIVE:
        return header + value;
    default:
        in->is_bad = true;
        return 0;
    }
}

static struct cursor cursor_at(const struct fh_cfi_image *image, uintptr_t addr)
{
    struct cursor in = {(const uint8_t *)addr, (const uint8_t *)image->high, false};
    if (addr < image->low || addr > image->high) {
        in.at = in.end;
        in.is_bad = true;
    }
    return in;
}

bool fh_cfi_open(struct fh_cfi_image *image, uintptr_t low, uintptr_t high, uintptr_t header)
{
    *image = (struct fh_cfi_image){low, high, header, NULL, 0};
    struct cursor in = cursor_at(image, header);
    uint8_t version = take_u8(&in);
    uint8_t frame_encoding = take_u8(&in);
    uint8_t count_encoding = take_u8(&in);
    uint8_t table_encoding = take_u8(&in);
    take_pointer(&in, frame_encoding, header);
    uint64_t count = take_pointer(&in, count_encoding, header);
    if (in.is_bad || version != 1 || count_encoding == PTR_OMITTED ||
        table_encoding != TABLE_ENCODING)
        return false;
    if ((uintptr_t)in.at % sizeof(int32_t) != 0 || count > (uint64_t)(in.end - in.at) / 8)
        return false;
    image->table = (const int32_t *)(const void *)in.at;
    image->table_len = count;
    return true;
}

size_t fh_cfi_search(const struct fh_cfi_image *image, uintptr_t pc)
{
    int64_t wanted = (int64_t)(pc - image->header);
    size_t low = 0, high = image->table_len;
    while (low < high) { /* pairs below low begin at or below pc, pairs from high on above it */
        size_t middle = low + (high - low) / 2;
        if (image->table[2 * middle] <= wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low != 0 ? low - 1 : image->table_len;
}

/* The length field of a CIE or FDE; in->end becomes the record's end. */
static bool take_length(struct cursor *in, bool *is_long)
{
    uint64_t len = take(in, 4);
    *is_long = len == 0xffffffffu;
    if (*is_long)
        len = take(in, 8);
    if (in->is_bad || len == 0 || len > (uint64_t)(in->end - in->at))
        return false;
    in->end = in->at + len;
    return true;
}

static bool read_common(const struct fh_cfi_image *image, uintptr_t addr,
                        struct fh_cfi_function *fn, bool *has_augmentation)
{
    struct cursor in = cursor_at(image, addr);
    bool is_long;
    if (!take_length(&in, &is_long) || take(&in, is_long ? 8 : 4) != 0)
        return false;
    uint8_t version = take_u8(&in);
    const char *augmentation = (const char *)in.at;
    while (!in.is_bad && take_u8(&in) != 0)
        continue;
    if (in.is_bad || (version != 1 && version != 3))
        return false;
    fn->code_align = take_uleb(&in);
    fn->data_align = take_sleb(&in);
    uint64_t return_column = version == 1 ? take_u8(&in) : take_uleb(&in);
    if (return_column != FH_CFI_RA)
        return false;
    fn->pointer_encoding = PTR_ABSOLUTE;
    fn->is_signal_frame = false;
    *has_augmentation = *augmentation == 'z';
    if (*has_augmentation) {
        uint64_t len = take_uleb(&in);
        if (in.is_bad || len > (uint64_t)(in.end - in.at))
            return false;
        const uint8_t *instructions = in.at + len;
        for (const char *letter = augmentation + 1; *letter != 0; letter++) {
            switch (*letter) {
            case 'R':
                fn->pointer_encoding = take_u8(&in);
                break;
            case 'P':
                take_format(&in, take_u8(&in));
                break;
            case 'L':
                skip(&in, 1);
                break;
            case 'S':
                fn->is_signal_frame = true;
                break;
            default: /* 'B' and others have no data, or their data cannot be known */
                break;
            }
        }
        if (in.is_bad)
            return false;
        in.at = instructions;
    } else if (*augmentation != 0) {
        return false;
    }
    fn->common = in.at;
    fn->common_end = in.end;
    return !in.is_bad;
}

bool fh_cfi_function_at(const struct fh_cfi_image *image, size_t index, struct fh_cfi_function *fn)
{
    if (index >= image->table_len)
        return false;
    struct cursor in =
        cursor_at(image, image->header + (uintptr_t)(intptr_t)image->table[2 * index + 1]);
    bool is_long, has_augmentation;
    if (!take_length(&in, &is_long))
        return false;
    uintptr_t pointer_field = (uintptr_t)in.at;
    uint64_t distance = take(&in, is_long ? 8 : 4);
    if (in.is_bad || distance == 0 || distance > pointer_field ||
        !read_common(image, pointer_field - distance, fn, &has_augmentation))
        return false;
    fn->begin = take_pointer(&in, fn->pointer_encoding, image->header);
    uint64_t size = take_format(&in, fn->pointer_encoding);
    if (has_augmentation)
        skip(&in, take_uleb(&in));
    if (in.is_bad || (fn->pointer_encoding & PTR_INDIRECT) != 0 || fn->begin + size < fn->begin)
        return false;
    fn->end = fn->begin + size;
    fn->own = in.at;
    fn->own_end = in.end;
    return true;
}

bool fh_cfi_find(const struct fh_cfi_image *image, uintptr_t pc, struct fh_cfi_function *fn)
{
    return fh_cfi_function_at(image, fh_cfi_search(image, pc), fn) && pc >= fn->begin &&
           pc < fn->end;
}

/* ---- Running a function's program ----------------------------------------------------------- */

/* The instructions: the two high bits are an opcode of their own, or the whole byte is. */
enum {
    CFA_ADVANCE = 0x40,
    CFA_OFFSET = 0x80,
    CFA_RESTORE = 0xc0,
    CFA_NOP = 0x00,
    CFA_SET_LOC = 0x01,
    CFA_ADVANCE1 = 0x02,
    CFA_ADVANCE2 = 0x03,
    CFA_ADVANCE4 = 0x04,
    CFA_OFFSET_EXTENDED = 0x05,
    CFA_RESTORE_EXTENDED = 0x06,
    CFA_UNDEFINED = 0x07,
    CFA_SAME_VALUE = 0x08,
    CFA_REGISTER = 0x09,
    CFA_REMEMBER_STATE = 0x0a,
    CFA_RESTORE_STATE = 0x0b,
    CFA_DEF_CFA = 0x0c,
    CFA_DEF_CFA_REGISTER = 0x0d,
    CFA_DEF_CFA_OFFSET = 0x0e,
    CFA_DEF_CFA_EXPRESSION = 0x0f,
    CFA_EXPRESSION = 0x10,
    CFA_OFFSET_EXTENDED_SF = 0x11,
    CFA_DEF_CFA_SF = 0x12,
    CFA_DEF_CFA_OFFSET_SF = 0x13,
    CFA_VAL_OFFSET = 0x14,
    CFA_VAL_OFFSET_SF = 0x15,
    CFA_VAL_EXPRESSION = 0x16,
    CFA_GNU_ARGS_SIZE = 0x2e,
    CFA_GNU_NEGATIVE_OFFSET_EXTENDED = 0x2f,
};

/* Registers above the return address (vector registers) are of no use to a walk: their rules go
 * nowhere. */
static void set_column(struct fh_cfi_run *run, uint64_t column, enum fh_cfi_how how, int64_t value)
{
    if (column < FH_CFI_COLUMNS) {
        run->row.columns[column].how = how;
        run->row.columns[column].value = value;
    }
}

static void restore_column(struct fh_cfi_run *run, uint64_t column)
{
    if (column < FH_CFI_COLUMNS)
        run->row.columns[column] = run->initial.columns[column];
}

/* Products of damaged input wrap; what they lead to is checked when it is used. */
static int64_t scaled(const struct fh_cfi_run *run, uint64_t factor)
{
    return (int64_t)(factor * (uint64_t)run->fn->data_align);
}

static void take_expression(struct cursor *in, const uint8_t **expr, uint32_t *len)
{
    uint64_t size = take_uleb(in);
    *expr = in->at;
    *len = (uint32_t)size;
    if (size > UINT32_MAX)
        in->is_bad = true;
    skip(in, size);
}

/* Executes one instruction; true when it moved the location forward (to run->row.end). */
static bool execute(struct fh_cfi_run *run, struct cursor *in)
{
    struct fh_cfi_row *row = &run->row;
    uint8_t code = take_u8(in);
    uint64_t column, size;
    const uint8_t *expr;
    uint32_t expr_len;
    switch (code & 0xc0) {
    case CFA_ADVANCE:
        row->end = row->begin + (code & 0x3fu) * run->fn->code_align;
        return true;
    case CFA_OFFSET:
        set_column(run, code & 0x3f, FH_CFI_AT_OFFSET, scaled(run, take_uleb(in)));
        return false;
    case CFA_RESTORE:
        restore_column(run, code & 0x3f);
        return false;
    default:
        break;
    }
    switch (code) {
    case CFA_NOP:
        return false;
    case CFA_SET_LOC:
        row->end = take_pointer(in, run->fn->pointer_encoding, 0);
        if ((run->fn->pointer_encoding & PTR_BASE) == PTR_HEADER_RELATIVE)
            in->is_bad = true;
        return true;
    case CFA_ADVANCE1:
    case CFA_ADVANCE2:
    case CFA_ADVANCE4:
        size = code == CFA_ADVANCE1 ? 1 : code == CFA_ADVANCE2 ? 2 : 4;
        row->end = row->begin + take(in, size) * run->fn->code_align;
        return true;
    case CFA_OFFSET_EXTENDED:
        column = take_uleb(in);
        set_column(run, column, FH_CFI_AT_OFFSET, scaled(run, take_uleb(in)));
        return false;
    case CFA_OFFSET_EXTENDED_SF:
        column = take_uleb(in);
        set_column(run, column, FH_CFI_AT_OFFSET, scaled(run, (uint64_t)take_sleb(in)));
        return false;
    case CFA_GNU_NEGATIVE_OFFSET_EXTENDED:
        column = take_uleb(in);
        set_column(run, column, FH_CFI_AT_OFFSET, scaled(run, 0 - take_uleb(in)));
        return false;
    case CFA_VAL_OFFSET:
        column = take_uleb(in);
        set_column(run, column, FH_CFI_IS_OFFSET, scaled(run, take_uleb(in)));
        return false;
    case CFA_VAL_OFFSET_SF:
        column = take_uleb(in);
        set_column(run, column, FH_CFI_IS_OFFSET, scaled(run, (uint64_t)take_sleb(in)));
        return false;
    case CFA_RESTORE_EXTENDED:
        restore_column(run, take_uleb(in));
        return false;
    case CFA_UNDEFINED:
        set_column(run, take_uleb(in), FH_CFI_UNDEFINED, 0);
        return false;
    case CFA_SAME_VALUE:
        set_column(run, take_uleb(in), FH_CFI_SAME, 0);
        return false;
    case CFA_REGISTER:
        column = take_uleb(in);
        set_column(run, column, FH_CFI_IN_REGISTER, (int64_t)take_uleb(in));
        return false;
    case CFA_REMEMBER_STATE:
        if (run->remembered_len == FH_CFI_REMEMBERED)
            in->is_bad = true;
        else
            run->remembered[run->remembered_len++] = *row;
        return false;
    case CFA_RESTORE_STATE:
        if (run->remembered_len == 0) {
            in->is_bad = true;
        } else {
            uintptr_t begin = row->begin, end = row->end;
            *row = run->remembered[--run->remembered_len];
            row->begin = begin;
            row->end = end;
        }
        return false;
    case CFA_DEF_CFA:
        row->cfa_register = (unsigned)take_uleb(in);
        row->cfa_offset = (int64_t)take_uleb(in);
        row->cfa_expr = NULL;
        return false;
    case CFA_DEF_CFA_SF:
        row->cfa_register = (unsigned)take_uleb(in);
        row->cfa_offset = scaled(run, (uint64_t)take_sleb(in));
        row->cfa_expr = NULL;
        return false;
    case CFA_DEF_CFA_REGISTER:
        row->cfa_register = (unsigned)take_uleb(in);
        return false;
    case CFA_DEF_CFA_OFFSET:
        row->cfa_offset = (int64_t)take_uleb(in);
        return false;
    case CFA_DEF_CFA_OFFSET_SF:
        row->cfa_offset = scaled(run, (uint64_t)take_sleb(in));
        return false;
    case CFA_DEF_CFA_EXPRESSION:
        take_expression(in, &row->cfa_expr, &row->cfa_expr_len);
        return false;
    case CFA_EXPRESSION:
    case CFA_VAL_EXPRESSION:
        column = take_uleb(in);
        take_expression(in, &expr, &expr_len);
        if (column < FH_CFI_COLUMNS) {
            row->columns[column].how = code == CFA_EXPRESSION ? FH_CFI_AT_EXPR : FH_CFI_IS_EXPR;
            row->columns[column].expr = expr;
            row->columns[column].expr_len = expr_len;
        }
        return false;
    case CFA_GNU_ARGS_SIZE:
        take_uleb(in);
        return false;
    default:
        in->is_bad = true;
        return false;
    }
}

void fh_cfi_start(struct fh_cfi_run *run, const struct fh_cfi_function *fn)
{
    run->fn = fn;
    run->remembered_len = 0;
    run->is_done = false;
    run->is_damaged = false;
    memset(&run->row, 0, sizeof(run->row));
    run->row.begin = fn->begin;
    run->row.end = fn->begin;
    struct cursor in = {fn->common, fn->common_end, false};
    while (in.at < in.end && !in.is_bad) {
        if (execute(run, &in))
            in.is_bad = true; /* the shared part has no location to move */
    }
    run->is_damaged = in.is_bad;
    run->initial = run->row;
    run->at = fn->own;
}

bool fh_cfi_next(struct fh_cfi_run *run)
{
    if (run->is_done || run->is_damaged)
        return false;
    struct cursor in = {run->at, run->fn->own_end, false};
    run->row.begin = run->row.end;
    for (;;) {
        if (in.at == in.end) {
            run->is_done = true;
            run->row.end = run->fn->end;
            return run->row.begin < run->row.end;
        }
        bool has_moved = execute(run, &in);
        if (in.is_bad || (has_moved && run->row.end < run->row.begin)) {
            run->is_damaged = true;
            return false;
        }
        if (has_moved && run->row.end > run->row.begin) {
            if (run->row.end >= run->fn->end) {
                run->row.end = run->fn->end;
                run->is_done = true;
            }
            run->at = in.at;
            return run->row.begin < run->row.end;
        }
    }
}

/* ---- Pressing a row into a rule ------------------------------------------------------------- */

enum { OP_BREG_RBP = 0x76, OP_BREG_RSP = 0x77, OP_DEREF = 0x06, SLOT_MAX = 255 };
#define OFFSET_MAX ((int64_t)((1u << 21) - 1) * 8)

/* `rsp+8; rip+0; lit15; and; litN; ge; lit3; shl; plus`: what linkers write for .plt. Gives N, or
 * 0. */
static unsigned plt_threshold(const uint8_t *expr, size_t len)
{
    static const uint8_t head[] = {OP_BREG_RSP, 8, 0x80, 0, 0x3f, 0x1a};
    static const uint8_t tail[] = {0x2a, 0x33, 0x24, 0x22};
    if (len != sizeof(head) + 1 + sizeof(tail) || memcmp(expr, head, sizeof(head)) != 0 ||
        memcmp(expr + sizeof(head) + 1, tail, sizeof(tail)) != 0)
        return 0;
    uint8_t literal = expr[sizeof(head)];
    return literal > 0x30 && literal < 0x40 ? literal - 0x30u : 0;
}

/* `rbp-8k; deref` with k in 1…8, rbp itself saved at rbp: gives k, or 0. */
static unsigned realigned_slot(const struct fh_cfi_row *row)
{
    const struct fh_cfi_column *rbp = &row->columns[FH_CFI_RBP];
    const uint8_t *expr = row->cfa_expr;
    if (row->cfa_expr_len != 3 || expr[0] != OP_BREG_RBP || expr[2] != OP_DEREF)
        return 0;
    if (rbp->how != FH_CFI_AT_EXPR || rbp->expr_len != 2 || rbp->expr[0] != OP_BREG_RBP ||
        rbp->expr[1] != 0)
        return 0;
    unsigned below = 0x80u - expr[1]; /* a one-byte SLEB128 of −below */
    return expr[1] >= 0x40 && expr[1] < 0x80 && below % 8 == 0 ? below / 8 : 0;
}

static uint32_t expression_rule(const struct fh_cfi_row *row)
{
    unsigned threshold = plt_threshold(row->cfa_expr, row->cfa_expr_len);
    if (threshold != 0 && row->columns[FH_CFI_RBP].how == FH_CFI_SAME)
        return FH_RULE(FH_RULE_PLT, 0, threshold * 8);
    unsigned slot = realigned_slot(row);
    return slot != 0 ? FH_RULE(FH_RULE_RBP_DEREF, 0, slot * 8) : FH_RULE_EXACT;
}

uint32_t fh_cfi_rule(const struct fh_cfi_row *row, bool is_signal_frame)
{
    const struct fh_cfi_column *ra = &row->columns[FH_CFI_RA];
    const struct fh_cfi_column *rbp = &row->columns[FH_CFI_RBP];
    if (is_signal_frame)
        return FH_RULE_SIGNAL;
    if (ra->how == FH_CFI_UNDEFINED)
        return FH_RULE_END;
    if (ra->how != FH_CFI_AT_OFFSET || ra->value != -8)
        return FH_RULE_EXACT;
    if (row->cfa_expr != NULL)
        return expression_rule(row);

    enum fh_rule_kind kind = row->cfa_register == FH_CFI_RSP   ? FH_RULE_RSP
                             : row->cfa_register == FH_CFI_RBP ? FH_RULE_RBP
                                                               : FH_RULE_EXACT;
    if (kind == FH_RULE_EXACT || row->cfa_offset % 8 != 0 || row->cfa_offset < 8 ||
        row->cfa_offset > OFFSET_MAX)
        return FH_RULE_EXACT;
    /* A caller's rbp that is lost is as good as kept: nothing that is right will use it. */
    if (rbp->how == FH_CFI_SAME || rbp->how == FH_CFI_UNDEFINED)
        return FH_RULE(kind, 0, row->cfa_offset);
    if (rbp->how != FH_CFI_AT_OFFSET || rbp->value % 8 != 0 || rbp->value > -16 ||
        rbp->value < -8 * SLOT_MAX)
        return FH_RULE_EXACT;
    return FH_RULE(kind, -rbp->value / 8, row->cfa_offset);
}

uint32_t fh_cfi_rule_at(uint32_t rule, uintptr_t pc)
{
    if (fh_rule_kind(rule) != FH_RULE_PLT)
        return rule;
    return FH_RULE(FH_RULE_RSP, 0, (pc & 15) >= fh_rule_offset(rule) / 8 ? 16 : 8);
}

/* ---- Expressions ---------------------------------------------------------------------------- */

enum { STACK_DEPTH = 32, STEPS_MAX = 256 };

struct evaluation {
    const struct fh_cfi_machine *machine;
    uint64_t stack[STACK_DEPTH];
    size_t depth;
    bool is_bad;
};

static void push_value(struct evaluation *ev, uint64_t value)
{
    if (ev->depth == STACK_DEPTH)
        ev->is_bad = true;
    else
        ev->stack[ev->depth++] = value;
}

static uint64_t pop_value(struct evaluation *ev)
{
    if (ev->depth == 0) {
        ev->is_bad = true;
        return 0;
    }
    return ev->stack[--ev->depth];
}

static uint64_t pick_value(struct evaluation *ev, size_t index)
{
    if (index >= ev->depth) {
        ev->is_bad = true;
        return 0;
    }
    return ev->stack[ev->depth - 1 - index];
}

/* Other frames' memory is read on purpose: not a stack overflow to report. */
__attribute__((no_sanitize("address", "thread"))) static uint64_t
load_value(struct evaluation *ev, uint64_t addr, size_t size)
{
    const struct fh_cfi_machine *machine = ev->machine;
    if (addr < machine->low || addr >= machine->high || machine->high - addr < size) {
        ev->is_bad = true;
        return 0;
    }
    uint64_t value = 0;
    const volatile uint8_t *bytes = (const volatile uint8_t *)addr;
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static uint64_t binary(uint8_t op, uint64_t a, uint64_t b)
{
    int64_t sa = (int64_t)a, sb = (int64_t)b;
    switch (op) {
    case 0x1a: /* and */
        return a & b;
    case 0x1c: /* minus */
        return a - b;
    case 0x1e: /* mul */
        return a * b;
    case 0x21: /* or */
        return a | b;
    case 0x22: /* plus */
        return a + b;
    case 0x24: /* shl */
        return b < 64 ? a << b : 0;
    case 0x25: /* shr */
        return b < 64 ? a >> b : 0;
    case 0x26: /* shra */
        return (uint64_t)(sa >> (b < 64 ? b : 63));
    case 0x27: /* xor */
        return a ^ b;
    case 0x29: /* eq */
        return a == b;
    case 0x2a: /* ge */
        return sa >= sb;
    case 0x2b: /* gt */
        return sa > sb;
    case 0x2c: /* le */
        return sa <= sb;
    case 0x2d: /* lt */
        return sa < sb;
    default: /* 0x2e: ne */
        return a != b;
    }
}

static void evaluate_one(struct evaluation *ev, struct cursor *in, const uint8_t *begin)
{
    uint8_t op = take_u8(in);
    uint64_t a, b;
    if (op >= 0x30 && op <= 0x4f) { /* lit0 … lit31 */
        push_value(ev, op - 0x30u);
        return;
    }
    if (op >= 0x70 && op <= 0x8f) { /* breg0 … breg31 */
        int64_t offset = take_sleb(in);
        if (op - 0x70 >= FH_CFI_COLUMNS)
            ev->is_bad = true;
        else
            push_value(ev, ev->machine->registers[op - 0x70] + (uint64_t)offset);
        return;
    }
    switch (op) {
    case 0x03: /* addr */
    case 0x0e: /* const8u */
    case 0x0f: /* const8s */
        push_value(ev, take(in, 8));
        break;
    case 0x06: /* deref */
        push_value(ev, load_value(ev, pop_value(ev), 8));
        break;
    case 0x94: /* deref_size */
        b = take_u8(in);
        if (b > 8)
            ev->is_bad = true;
        else
            push_value(ev, load_value(ev, pop_value(ev), b));
        break;
    case 0x08: /* const1u */
        push_value(ev, take(in, 1));
        break;
    case 0x09: /* const1s */
        push_value(ev, (uint64_t)(int8_t)take(in, 1));
        break;
    case 0x0a: /* const2u */
        push_value(ev, take(in, 2));
        break;
    case 0x0b: /* const2s */
        push_value(ev, (uint64_t)(int16_t)take(in, 2));
        break;
    case 0x0c: /* const4u */
        push_value(ev, take(in, 4));
        break;
    case 0x0d: /* const4s */
        push_value(ev, (uint64_t)(int32_t)take(in, 4));
        break;
    case 0x10: /* constu */
        push_value(ev, take_uleb(in));
        break;
    case 0x11: /* consts */
        push_value(ev, (uint64_t)take_sleb(in));
        break;
    case 0x12: /* dup */
        push_value(ev, pick_value(ev, 0));
        break;
    case 0x13: /* drop */
        pop_value(ev);
        break;
    case 0x14: /* over */
        push_value(ev, pick_value(ev, 1));
        break;
    case 0x15: /* pick */
        push_value(ev, pick_value(ev, take_u8(in)));
        break;
    case 0x16: /* swap */
        b = pop_value(ev);
        a = pop_value(ev);
        push_value(ev, b);
        push_value(ev, a);
        break;
    case 0x1f: /* neg */
        push_value(ev, 0 - pop_value(ev));
        break;
    case 0x20: /* not */
        push_value(ev, ~pop_value(ev));
        break;
    case 0x23: /* plus_uconst */
        a = take_uleb(in);
        push_value(ev, pop_value(ev) + a);
        break;
    case 0x1a:
    case 0x1c:
    case 0x1e:
    case 0x21:
    case 0x22:
    case 0x24:
    case 0x25:
    case 0x26:
    case 0x27:
    case 0x29:
    case 0x2a:
    case 0x2b:
    case 0x2c:
    case 0x2d:
    case 0x2e:
        b = pop_value(ev);
        a = pop_value(ev);
        push_value(ev, binary(op, a, b));
        break;
    case 0x28:   /* bra */
    case 0x2f: { /* skip */
        int64_t distance = (int16_t)take(in, 2);
        if (op == 0x28 && pop_value(ev) == 0)
            break;
        if (distance < begin - in->at || distance > in->end - in->at)
            ev->is_bad = true;
        else
            in->at += distance;
        break;
    }
    case 0x96: /* nop */
        break;
    default:
        ev->is_bad = true;
    }
}

bool fh_cfi_evaluate(const struct fh_cfi_machine *machine, const uint8_t *expr, size_t len,
                     const uint64_t *push, uint64_t *result)
{
    struct evaluation ev = {.machine = machine};
    struct cursor in = {expr, expr + len, false};
    if (push != NULL)
        push_value(&ev, *push);
    for (size_t steps = 0; in.at < in.end && !in.is_bad && !ev.is_bad; steps++) {
        if (steps == STEPS_MAX)
            return false;
        evaluate_one(&ev, &in, expr);
    }
    *result = pop_value(&ev);
    return !in.is_bad && !ev.is_bad;
}
