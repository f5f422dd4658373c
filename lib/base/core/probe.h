/*
 * USDT probes: places where bpftrace, perf or SystemTap can look into an allocator, one nop each while
 * nobody looks. Provider "freehold". Without <sys/sdt.h> (systemtap-sdt-dev), and freestanding, they are
 * nothing.
 */
#ifndef FH_BASE_CORE_PROBE_H
#define FH_BASE_CORE_PROBE_H

#if !defined(FH_FREESTANDING) && defined(__has_include) && __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define FH_PROBE1(name, a)       DTRACE_PROBE1(freehold, name, a)
#define FH_PROBE2(name, a, b)    DTRACE_PROBE2(freehold, name, a, b)
#define FH_PROBE3(name, a, b, c) DTRACE_PROBE3(freehold, name, a, b, c)
#else
#define FH_PROBE1(name, a)       ((void)(a))
#define FH_PROBE2(name, a, b)    ((void)(a), (void)(b))
#define FH_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#endif

#endif
