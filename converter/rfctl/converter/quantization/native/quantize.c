/* Rows of float32 to blocks of a GGML type, byte-equal to ggml's own code without importance matrix.
 *
 * The searches for scales are ggml's (ggml/src/ggml-quants.c, llama.cpp b11434) in arithmetic and order, but
 * arranged for vector units: 32 sub-blocks are searched side by side, one per lane, and every branch is a
 * choice between two values. `lanes.h` holds that code and is compiled once per instruction set; which copy
 * runs is chosen here at run time. Equality rests on IEEE float32 without contraction to FMA. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "float32 arithmetic must not use a wider type"
#endif
#if defined(__FAST_MATH__)
#error "compile without -ffast-math"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define INLINE static __forceinline
#define OWN static __declspec(noinline)
#define RESTRICT __restrict
#define ALIGNED __declspec(align(64))
#else
#define INLINE static inline __attribute__((always_inline))
#define OWN static __attribute__((noinline))
#define RESTRICT __restrict__
#define ALIGNED __attribute__((aligned(64)))
#endif
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#ifndef KERNEL_SOURCE
#define KERNEL_SOURCE "unknown"
#endif

enum { LANES = 32, SUPER = 256 };

/* Below this largest magnitude ggml takes a sub-block of the symmetric types for zero. */
#define NOTHING 1e-15f
/* 1.5 * 2^23: adding it rounds a float32 of magnitude up to 2^22 to an integer, ties to even. */
#define ROUNDER 12582912.0f
#define ROUNDER_BITS 0x4B400000
#define ROUNDER_REACH 4194303.0f

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE int32_t clamp(int32_t value, int32_t low, int32_t high) {
    value = value < high ? value : high;
    return value > low ? value : low;
}

/* The nearest integer as ggml computes it, with its results for what is out of reach (NaN, infinity, huge). */
INLINE int32_t nearest(float value) {
    return (int32_t)(bits_of(value + ROUNDER) & 0x7FFFFF) - 0x400000;
}

/* clamp(nearest(value), low, high) as float, for a `value` within ROUNDER_REACH. */
INLINE float nearest_within(float value, int32_t low, int32_t high) {
    const int32_t bits = (int32_t)bits_of(value + ROUNDER);
    return float_of((uint32_t)clamp(bits, ROUNDER_BITS + low, ROUNDER_BITS + high)) - ROUNDER;
}

/* Toward zero; out of range gives the smallest integer, as x86 does. */
INLINE int32_t truncated(float value) {
    return fabsf(value) < 2147483648.0f ? (int32_t)value : INT32_MIN;
}

/* IEEE half precision, to nearest, ties to even. */
INLINE uint16_t half_of(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    const uint32_t normal = (magnitude + 0xFFF + ((magnitude >> 13) & 1) - 0x38000000u) >> 13;
    const uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t result = magnitude < 0x38800000u ? tiny : normal;
    result = magnitude >= 0x477FF000u ? 0x7C00u : result;
    result = magnitude > 0x7F800000u ? 0x7E00u : result;
    return (uint16_t)(sign | result);
}

INLINE float float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t magnitude = half & 0x7FFF;
    const uint32_t normal = (magnitude << 13) + (magnitude >= 0x7C00 ? 0x70000000u : 0x38000000u);
    const uint32_t tiny = bits_of(float_of(0x3F000000u | magnitude) - 0.5f);
    return float_of(sign | (magnitude < 0x400 ? tiny : normal));
}

INLINE uint16_t brain_of(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000u ? (bits >> 16) | 64 : rounded);
}

INLINE void put_half(uint8_t *to, uint16_t half) {
    to[0] = (uint8_t)half;
    to[1] = (uint8_t)(half >> 8);
}

typedef void (*quantizer)(const float *rows, uint8_t *out, int64_t blocks);
typedef int64_t (*converter)(const void *from, void *to, int64_t count);

/* Numbers of GGML types (ggml/include/ggml.h). */
enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14 };
enum { BRAIN_TO_FLOAT, HALF_TO_FLOAT, FLOAT_TO_BRAIN, FLOAT_TO_HALF, CONVERTERS };

typedef struct {
    const char *name;
    quantizer quantizers[Q6_K + 1];
    converter converters[CONVERTERS];
} level;

#define PASTE(a, b) a##_##b
#define JOIN(a, b) PASTE(a, b)
#define AT(name) JOIN(name, LEVEL)

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define X86_LEVELS
#include <cpuid.h>
#include <immintrin.h>
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#endif

#define LEVEL plain
#define LEVEL_NAME "plain"
#include "lanes.h"

#ifdef X86_LEVELS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sse4.1"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("sse4.1")
#endif
#define LEVEL sse41
#define VECTOR 4
#define LEVEL_NAME "sse4.1"
#include "lanes.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define LEVEL avx2
#define VECTOR 8
#define LEVEL_NAME "avx2"
#include "lanes.h"
#if defined(__clang__)
#pragma clang attribute pop
#if __clang_major__ >= 18 && __clang_major__ <= 20 /* there wide registers are a feature of their own */
#pragma clang attribute push(__attribute__((target(AVX512 ",evex512"))), apply_to = function)
#else
#pragma clang attribute push(__attribute__((target(AVX512))), apply_to = function)
#endif
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define LEVEL avx512
#define VECTOR 16
#define LEVEL_NAME "avx512"
#include "lanes.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* X86_LEVELS */

/* Best first. */
static const level *const LEVELS[] = {
#ifdef X86_LEVELS
    &level_avx512, &level_avx2, &level_sse41,
#endif
    &level_plain,
};
enum { LEVEL_COUNT = sizeof LEVELS / sizeof LEVELS[0] };

#ifdef X86_LEVELS
/* Asks the processor itself and which registers the system saves: not every compiler's library can answer. */
static int x86_supports(const level *one) {
    unsigned a, b, c, d, wide = 0, saved = 0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (one == &level_sse41) return c >> 19 & 1;
    if (c >> 27 & 1) __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) wide = b;
    if (one == &level_avx2) return (saved & 0x06) == 0x06 && wide >> 5 & 1;
    /* F, DQ, BW, VL; registers: upper halves, masks, upper 16. */
    return (saved & 0xE6) == 0xE6 && wide >> 16 & 1 && wide >> 17 & 1 && wide >> 30 & 1 && wide >> 31;
}
#endif

static int works_here(const level *one) {
#ifdef X86_LEVELS
    if (one != &level_plain) return x86_supports(one);
#endif
    return one == &level_plain;
}

/* The `rank`-th best level of this machine (0 = best), NULL when there are not so many. */
static const level *pick(int rank) {
    for (int i = 0; i < LEVEL_COUNT; i++)
        if (works_here(LEVELS[i]) && rank-- == 0) return LEVELS[i];
    return NULL;
}

EXPORT const char *rfctl_kernel_source(void) { return KERNEL_SOURCE; }

EXPORT const char *rfctl_kernel_level(int rank) {
    const level *one = pick(rank);
    return one ? one->name : NULL;
}

/* `blocks` blocks from `rows` to `out`; 0, or -1 for a type or level that is not there. */
EXPORT int rfctl_kernel_quantize(int rank, int type, const float *rows, uint8_t *out, int64_t blocks) {
    const level *one = pick(rank);
    if (!one || type < 0 || type > Q6_K || !one->quantizers[type]) return -1;
    one->quantizers[type](rows, out, blocks);
    return 0;
}

/* The index of the first source value that is not finite, -1 when all are, -2 for an unknown kind or level.
 * All values are converted in any case. */
EXPORT int64_t rfctl_kernel_convert(int rank, int kind, const void *from, void *to, int64_t count) {
    const level *one = pick(rank);
    if (!one || kind < 0 || kind >= CONVERTERS) return -2;
    return one->converters[kind](from, to, count);
}
