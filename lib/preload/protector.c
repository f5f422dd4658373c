/*
 * The stack protector's failure: a function that is about to return finds the word between its
 * local variables and its return address changed (gcc's and clang's -fstack-protector). The C
 * library says so in a line without an address; here it is an error like any other, and the process
 * ends whatever on_error says, for the function can't return.
 *
 * #0 is the function whose array was overrun. What called it may be unknown: the overrun may have
 * gone over the return address, and the walk ends where none is plausible.
 *
 * The C library's own functions, and its fortified ones (__memcpy_chk and so on), call theirs
 * inside, past this.
 */
#include "guard/guard.h"

#include <stdlib.h>

FH_PUBLIC _Noreturn void __stack_chk_fail(void);

FH_PUBLIC _Noreturn FH_NOINLINE void __stack_chk_fail(void)
{
    const struct fh_call call = FH_CALL_HERE();
    fh_error(&(struct fh_error){
        .kind = "stack-buffer-overflow",
        .address = call.sp,
        .call = &call,
        .detail =
            "a local array of the function #0 was overrun: what lies behind its variables on the "
            "stack has changed",
    });
    abort();
}
