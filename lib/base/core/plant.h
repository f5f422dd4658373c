/*
 * Planted bugs: places where a test build can be told to do the wrong thing, so that the conformance suite is
 * known to notice it. FH_PLANT(name, wrong, right) is `right` in every build but the one of
 * tests/unit/test_place_plants.c, which finds all plants by their section and sows them one by one.
 */
#ifndef FH_BASE_CORE_PLANT_H
#define FH_BASE_CORE_PLANT_H

#ifdef FH_PLANTS

#include "base/core/macros.h"

bool fh_is_planted(const char *name);

#define FH_PLANT(name, wrong, right)                                                               \
    (__extension__({                                                                               \
        static const char *const fh_plant_name __attribute__((section("fh_plants"), used)) =       \
            #name;                                                                                 \
        fh_is_planted(fh_plant_name);                                                              \
    })                                                                                             \
         ? (wrong)                                                                                 \
         : (right))

#else
#define FH_PLANT(name, wrong, right) (right)
#endif

#endif
