/* What gc.c and private_gc.c know of the inside of Lua 5.4. All of it is checked against what Lua's API
 * says before it is used. */
#ifndef TINE_HEAP_LUA_LAYOUT_H
#define TINE_HEAP_LUA_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "heap.h"

/* global_State from totalbytes to gcemergency. Lua has total + debt bytes in use, and
 * collects when debt is above 0. */
struct tine__accounts {
    ptrdiff_t total, debt;
    size_t estimate, last_atomic;
    void *strings;
    int nstrings, nbuckets;
    void *registry;
    uint64_t registry_type;
    uint64_t nil_value;
    uint8_t nil_type, nil_rest[7]; /* of a complete state */
    uint32_t seed;
    uint8_t white;               /* the current one */
    uint8_t state, generational; /* 0 between two collections of that kind */
    uint8_t no_emergency, minor_percent, major_percent;
    uint8_t stopped, emergency; /* from 5.4.4 on */
};

/* The head of each object. */
typedef struct tine__object {
    struct tine__object *next;
    uint8_t type;   /* with its variant */
    uint8_t marked; /* age, colours, whether it has a finalizer */
} tine__object;

typedef struct tine__value {
    void *object; /* or what else it is */
    uint64_t type;
} tine__value;

/* A table, and, up to `length`, a long string. */
typedef struct tine__table {
    tine__object *next;
    uint8_t type, marked;
    uint8_t flags; /* metamethods that are absent, and bit 7; a string: it is hashed */
    uint8_t size_of_hash;
    uint32_t
        size_of_array; /* unless bit 7 is set: then it is this, made a power of 2 */
    union {
        tine__value *array;
        size_t length;
    } u;
    void *hash, *last_free;
    tine__object *metatable, *next_gray;
} tine__table;

/* Values as an array has them. */
enum { TINE__COLLECTABLE = 1 << 6, TINE__INTEGER = 3, TINE__LONG_STRING = 0x14 };

#endif
