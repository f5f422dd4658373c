/*
 * The conformance suite notices bugs: this program has the allocators with planted ones (base/core/plant.h),
 * sows them one at a time, and expects random sequences against the model to fail; and without any to pass.
 */
#include "property.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SEEDS       4u
#define MOST_PLANTS 64u

extern const char *const __start_fh_plants[], *const __stop_fh_plants[];

bool fh_is_planted(const char *name);

static const char *planted = "";

bool fh_is_planted(const char *name)
{
    return planted[0] != 0 && strcmp(name, planted) == 0;
}

static _Alignas(65536) unsigned char arenas[2][SUBJECT_MOST_BUDGET + 2 * SUBJECT_GUARD];
static struct allocator_model model;
static const char *plants[MOST_PLANTS];
static size_t plant_count;

static void find_plants(void)
{
    for (const char *const *plant = __start_fh_plants; plant < __stop_fh_plants; plant++) {
        size_t i = 0;
        while (i < plant_count && strcmp(plants[i], *plant) != 0)
            i++;
        if (i == plant_count && plant_count < MOST_PLANTS)
            plants[plant_count++] = *plant;
    }
}

static bool fails(const struct subject_kind *kind)
{
    static uint8_t input[PROPERTY_BYTES];
    for (unsigned ground = 0; ground < GROUNDS; ground++)
        for (uint64_t seed = 1; seed <= SEEDS && (kind->grounds >> ground & 1); seed++) {
            size_t size = property_input(input, kind, (enum ground)ground, seed, PROPERTY_STEPS);
            if (property_status(&model, input, size, false) != 0)
                return true;
        }
    return false;
}

/* A kind whose sequences fail, or NULL. Kinds that the plant is named after are tried first, then the others
 * from the end, as the heaps at the beginning take longest. */
static const struct subject_kind *caught_in(const char *plant)
{
    size_t owner = strcspn(plant, "_");
    for (int round = 0; round < 2; round++)
        for (size_t i = SUBJECT_KINDS; i-- > 0;) {
            const struct subject_kind *kind = &subject_kinds[i];
            bool is_named = owner > 0 && strncmp(kind->name, plant, owner) == 0;
            if (is_named == (round == 0) && fails(kind))
                return kind;
        }
    return NULL;
}

static void test_nothing_is_caught_where_nothing_is_planted(void **state)
{
    (void)state;
    planted = "";
    const struct subject_kind *kind = caught_in("");
    if (kind != NULL)
        fail_msg("expected %s to pass without a planted bug", kind->name);
}

static void test_every_planted_bug_is_caught(void **state)
{
    (void)state;
    for (size_t i = 0; i < plant_count; i++) {
        planted = plants[i];
        const struct subject_kind *kind = caught_in(plants[i]);
        if (kind == NULL)
            fail_msg("expected %s to be caught", plants[i]);
        print_message("%s: caught in %s\n", plants[i], kind->name);
    }
    planted = "";
}

/* Each room for blocks has at least one. */
static void test_every_allocator_has_a_planted_bug(void **state)
{
    static const char *const owners[] = {"account_", "arena_", "buddy_",     "context_",
                                         "fixed_",   "heap_",  "magazines_", "mesh_",
                                         "movable_", "pool_",  "slab_",      "tags_"};
    (void)state;
    for (size_t o = 0; o < sizeof owners / sizeof owners[0]; o++) {
        size_t found = 0;
        for (size_t i = 0; i < plant_count; i++)
            found += strncmp(plants[i], owners[o], strlen(owners[o])) == 0;
        if (found == 0)
            fail_msg("expected a plant that begins with %s", owners[o]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_caught_where_nothing_is_planted),
        cmocka_unit_test(test_every_allocator_has_a_planted_bug),
        cmocka_unit_test(test_every_planted_bug_is_caught),
    };
    model.arena = arenas[0];
    model.other = arenas[1];
    find_plants();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
