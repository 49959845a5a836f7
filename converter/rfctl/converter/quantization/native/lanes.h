/* The quantizers of one instruction set. Included by quantize.c once per level with LEVEL and LEVEL_NAME set;
 * has no include guard on purpose. EACH runs over the lanes, innermost, so that compilers turn it into vector
 * instructions. Where the order of float operations matters (everywhere) it is ggml's. */

#define EACH for (int k = 0; k < LANES; k++)
typedef float AT(row)[LANES];
#define ROW AT(row)

#ifdef VECTOR
#include "vector.h"
#else
#include "loop.h"
#endif

/* Final codes of one sub-block: clamp(nearest((x + offset) / scale), low, high) - low. */
INLINE void AT(divide)(int n, const float *RESTRICT x, float offset, float scale, int low, int high,
                       uint8_t *RESTRICT code) {
    for (int i = 0; i < n; i++) code[i] = (uint8_t)(clamp(nearest((x[i] + offset) / scale), low, high) - low);
}

/* The codes that a search kept, for a sub-block whose stored scale is zero. */
INLINE void AT(multiply)(int n, const float *RESTRICT x, float base, float step, int low, int high,
                         uint8_t *RESTRICT code) {
    for (int i = 0; i < n; i++) code[i] = (uint8_t)(clamp(nearest(step * (x[i] - base)), low, high) - low);
}

/* Calls, not inlined: inside the loops over lanes compilers take these loops apart. */
OWN void AT(codes_16)(const float *x, float offset, float scale, float base, float step, int low, int high,
                      uint8_t *code) {
    if (scale != 0.0f)
        AT(divide)(16, x, offset, scale, low, high, code);
    else
        AT(multiply)(16, x, base, step, low, high, code);
}

OWN void AT(codes_32)(const float *x, float offset, float scale, float base, float step, int high,
                      uint8_t *code) {
    if (scale != 0.0f)
        AT(divide)(32, x, offset, scale, 0, high, code);
    else
        AT(multiply)(32, x, base, step, 0, high, code);
}

/* ---- value = scale * code + low, low <= 0: Q2_K, Q4_K, Q5_K ------------------------------------------- */

typedef struct {
    ALIGNED ROW scale, low; /* the best found */
    ALIGNED ROW step, base; /* its codes are nearest(step * (x - base)); both 0 in a lane without a range */
} AT(affine);

/* Whether all products of `affine_sums` stay within ROUNDER_REACH: they lie between those of the extremes. */
INLINE int AT(affine_reach)(const float *step, const float *base, const float *least, const float *most) {
    ALIGNED int32_t beyond[LANES];
    uint64_t words[LANES / 2], any = 0; /* few wide words: a reduction over lanes would be taken apart */
    EACH {
        const int32_t a = (int32_t)bits_of(fabsf(step[k] * (least[k] - base[k])));
        const int32_t b = (int32_t)bits_of(fabsf(step[k] * (most[k] - base[k])));
        const int32_t c = a > b ? a : b;
        beyond[k] = c > (int32_t)bits_of(ROUNDER_REACH);
    }
    memcpy(words, beyond, sizeof words);
    for (int i = 0; i < LANES / 2; i++) any |= words[i];
    return !any;
}

/* As `affine_sums`, without the condition on the products. */
OWN void AT(affine_far)(int n, int top, ROW *RESTRICT x, ROW *RESTRICT w, const float *step, const float *base,
                        ROW *RESTRICT code, float *RESTRICT sum_l, float *RESTRICT sum_ll, float *RESTRICT sum_lx) {
    EACH sum_l[k] = sum_ll[k] = sum_lx[k] = 0.0f;
    for (int i = 0; i < n; i++)
        EACH {
            const float c = (float)clamp(nearest(step[k] * (x[i][k] - base[k])), 0, top);
            const float wc = w[i][k] * c;
            code[i][k] = c;
            sum_l[k] += wc;
            sum_ll[k] += wc * c;
            sum_lx[k] += wc * x[i][k];
        }
}

/* The search of ggml's make_qkx2_quants in all lanes: top code `top`, steps (first + 0.1 s + top) / range for
 * s = 0 .. `steps`, error weighted by w, absolute or squared. */
INLINE void AT(affine_search)(int n, int top, float first, int steps, int absolute, ROW *RESTRICT x,
                              ROW *RESTRICT w, AT(affine) *RESTRICT found) {
    ALIGNED ROW least, most, bound, sum_w, sum_x, step, best, error, sum_l, sum_ll, sum_lx, scale, low;
    ALIGNED ROW code[32];
    ALIGNED int32_t flat[LANES];
    EACH least[k] = most[k] = x[0][k], sum_w[k] = w[0][k], sum_x[k] = w[0][k] * x[0][k];
    for (int i = 1; i < n; i++)
        EACH {
            least[k] = x[i][k] < least[k] ? x[i][k] : least[k];
            most[k] = x[i][k] > most[k] ? x[i][k] : most[k];
            sum_w[k] += w[i][k];
            sum_x[k] += w[i][k] * x[i][k];
        }
    EACH {
        found->low[k] = least[k] > 0.0f ? 0.0f : least[k];
        flat[k] = most[k] == found->low[k];
        bound[k] = flat[k] ? INFINITY : most[k]; /* makes every step of such a lane 0, without a choice */
        step[k] = (float)top / (bound[k] - found->low[k]);
        found->scale[k] = 1.0f / step[k];
        found->step[k] = step[k];
        found->base[k] = found->low[k];
    }
    /* Of this first step only the codes are wanted. */
    if (AT(affine_reach)(step, found->low, least, most))
        AT(affine_sums)(n, top, x, w, step, found->low, code, sum_l, sum_ll, sum_lx);
    else
        AT(affine_far)(n, top, x, w, step, found->low, code, sum_l, sum_ll, sum_lx);
    AT(affine_error)(n, absolute, x, w, code, found->scale, found->low, best);
    for (int s = 0; s <= steps; s++) {
        const float factor = first + 0.1f * (float)s + (float)top;
        EACH step[k] = factor / (bound[k] - found->low[k]);
        if (AT(affine_reach)(step, found->low, least, most))
            AT(affine_sums)(n, top, x, w, step, found->low, code, sum_l, sum_ll, sum_lx);
        else
            AT(affine_far)(n, top, x, w, step, found->low, code, sum_l, sum_ll, sum_lx);
        EACH {
            const float d = sum_w[k] * sum_ll[k] - sum_l[k] * sum_l[k];
            const float a = (sum_w[k] * sum_lx[k] - sum_x[k] * sum_l[k]) / d;
            const float b = (sum_ll[k] * sum_x[k] - sum_l[k] * sum_lx[k]) / d;
            const float alone = sum_lx[k] / sum_ll[k];
            scale[k] = b > 0.0f ? alone : a;
            low[k] = b > 0.0f ? 0.0f : b;
        }
        AT(affine_error)(n, absolute, x, w, code, scale, low, error);
        EACH {
            const float d = sum_w[k] * sum_ll[k] - sum_l[k] * sum_l[k];
            const int better = (d > 0.0f) & (error[k] < best[k]);
            best[k] = better ? error[k] : best[k];
            found->step[k] = better ? step[k] : found->step[k];
            found->base[k] = better ? found->low[k] : found->base[k];
            found->scale[k] = better ? scale[k] : found->scale[k];
            found->low[k] = better ? low[k] : found->low[k];
        }
    }
    EACH {
        found->scale[k] = flat[k] ? 0.0f : found->scale[k];
        found->step[k] = flat[k] ? 0.0f : found->step[k];
        found->low[k] = flat[k] ? (least[k] > 0.0f ? 0.0f : least[k]) : found->low[k];
    }
}

/* Scales and minima of one super-block in 6 bits each, for Q4_K and Q5_K: 4 bytes of halves, 12 of packed
 * values; gives back what a reader of the block will see. */
INLINE void AT(pack_six)(const float *scales, const float *lows, uint8_t *out, float *scale, float *offset) {
    float most = 0.0f, deepest = 0.0f;
    for (int j = 0; j < 8; j++) {
        most = scales[j] > most ? scales[j] : most;
        deepest = -lows[j] > deepest ? -lows[j] : deepest;
    }
    const float up = most > 0.0f ? 63.0f / most : 0.0f;
    const float down = deepest > 0.0f ? 63.0f / deepest : 0.0f;
    const uint16_t d = half_of(most / 63.0f), m = half_of(deepest / 63.0f);
    uint8_t *packed = out + 4;
    memset(packed, 0, 12);
    put_half(out, d);
    put_half(out + 2, m);
    for (int j = 0; j < 8; j++) {
        uint8_t s = (uint8_t)nearest(up * scales[j]), l = (uint8_t)nearest(down * -lows[j]);
        s = s < 63 ? s : 63;
        l = l < 63 ? l : 63;
        if (j < 4) {
            packed[j] = s;
            packed[j + 4] = l;
        } else {
            packed[j + 4] = (uint8_t)((s & 15) | (l & 15) << 4);
            packed[j - 4] |= (uint8_t)(s >> 4 << 6);
            packed[j] |= (uint8_t)(l >> 4 << 6);
        }
        scale[j] = float_of_half(d) * (float)s;
        offset[j] = float_of_half(m) * (float)l;
    }
}

/* Weights of the error for Q4_K and Q5_K: root mean square of the sub-block plus magnitude. */
INLINE void AT(weigh)(int n, ROW *RESTRICT x, ROW *RESTRICT w) {
    ALIGNED ROW sum;
    EACH sum[k] = 0.0f;
    for (int i = 0; i < n; i++) EACH sum[k] += x[i][k] * x[i][k];
    EACH sum[k] = sqrtf(sum[k] / 32.0f);
    for (int i = 0; i < n; i++) EACH w[i][k] = sum[k] + fabsf(x[i][k]);
}

INLINE void AT(four_or_five)(int five, const float *RESTRICT rows, uint8_t *RESTRICT out, int64_t blocks) {
    enum { GROUP = LANES / 8 }; /* super-blocks at a time */
    ALIGNED ROW x[32], w[32];
    ALIGNED uint8_t codes[SUPER];
    AT(affine) found;
    const int size = five ? 176 : 144;
    for (int64_t b = 0; b < blocks; b += GROUP) {
        const int count = blocks - b < GROUP ? (int)(blocks - b) : GROUP;
        if (count < GROUP) memset(x, 0, sizeof x); /* the lanes without a sub-block */
        AT(spread)(32, 8 * count, rows, x);
        AT(weigh)(32, x, w);
        if (five)
            AT(affine_search)(32, 31, -0.5f, 15, 0, x, w, &found);
        else
            AT(affine_search)(32, 15, -1.0f, 20, 0, x, w, &found);
        for (int p = 0; p < count; p++, rows += SUPER, out += size) {
            const float *step = found.step + 8 * p, *base = found.base + 8 * p;
            float scale[8], offset[8];
            AT(pack_six)(found.scale + 8 * p, found.low + 8 * p, out, scale, offset);
            for (int k = 0; k < 8; k++)
                AT(codes_32)(rows + 32 * k, offset[k], scale[k], base[k], step[k], five ? 31 : 15, codes + 32 * k);
            uint8_t *RESTRICT low = out + (five ? 48 : 16);
            for (int j = 0; j < 4; j++)
                for (int i = 0; i < 32; i++)
                    low[32 * j + i] = (uint8_t)((codes[64 * j + i] & 15) | (codes[64 * j + 32 + i] & 15) << 4);
            if (!five) continue;
            for (int i = 0; i < 32; i++) {
                int high = 0;
                for (int j = 0; j < 8; j++) high |= (codes[32 * j + i] >> 4) << j;
                out[16 + i] = (uint8_t)high;
            }
        }
    }
}

static void AT(q4_k)(const float *rows, uint8_t *out, int64_t blocks) { AT(four_or_five)(0, rows, out, blocks); }
static void AT(q5_k)(const float *rows, uint8_t *out, int64_t blocks) { AT(four_or_five)(1, rows, out, blocks); }

/* 2-bit fields of 256 codes, as Q2_K and Q3_K lay them out. */
INLINE void AT(pack_two)(const uint8_t *RESTRICT c, uint8_t *RESTRICT out) {
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *RESTRICT at = c + 128 * h + i;
            out[32 * h + i] =
                (uint8_t)((at[0] & 3) | (at[32] & 3) << 2 | (at[64] & 3) << 4 | (at[96] & 3) << 6);
        }
}

/* The rest of a Q2_K block, given what the search found for its 16 sub-blocks. */
OWN void AT(finish_two)(const float *RESTRICT rows, const float *scales, const float *lows, const float *step,
                        const float *base, uint8_t *RESTRICT out) {
    ALIGNED uint8_t codes[SUPER];
    float most = 0.0f, deepest = 0.0f;
    for (int k = 0; k < 16; k++) {
        most = scales[k] > most ? scales[k] : most;
        deepest = -lows[k] > deepest ? -lows[k] : deepest;
    }
    const float up = 15.0f / most, down = 15.0f / deepest;
    const uint16_t d = half_of(most > 0.0f ? most / 15.0f : 0.0f);
    const uint16_t m = half_of(deepest > 0.0f ? deepest / 15.0f : 0.0f);
    put_half(out + 80, d);
    put_half(out + 82, m);
    for (int k = 0; k < 16; k++) {
        int32_t s = most > 0.0f ? nearest(up * scales[k]) : 0;
        if (deepest > 0.0f) s |= (int32_t)((uint32_t)nearest(down * -lows[k]) << 4);
        out[k] = (uint8_t)s;
        const float scale = float_of_half(d) * (float)(out[k] & 15);
        const float offset = float_of_half(m) * (float)(out[k] >> 4);
        AT(codes_16)(rows + 16 * k, offset, scale, base[k], step[k], 0, 3, codes + 16 * k);
    }
    AT(pack_two)(codes, out + 16);
}

static void AT(q2_k)(const float *RESTRICT rows, uint8_t *RESTRICT out, int64_t blocks) {
    ALIGNED ROW x[16], w[16];
    AT(affine) found;
    for (int64_t b = 0; b < blocks; b += LANES / 16) {
        const int count = blocks - b < LANES / 16 ? (int)(blocks - b) : LANES / 16;
        if (count < LANES / 16) memset(x, 0, sizeof x);
        AT(spread)(16, 16 * count, rows, x);
        for (int i = 0; i < 16; i++) EACH w[i][k] = fabsf(x[i][k]);
        AT(affine_search)(16, 3, -0.5f, 15, 1, x, w, &found);
        for (int p = 0; p < 16 * count; p += 16, rows += SUPER, out += 84)
            AT(finish_two)(rows, found.scale + p, found.low + p, found.step + p, found.base + p, out);
    }
}

/* ---- value = scale * code, code from -half to half - 1: Q3_K, Q6_K ------------------------------------ */

/* First value of largest magnitude per lane. */
INLINE void AT(extreme)(int n, ROW *RESTRICT x, float *magnitude, float *value) {
    ALIGNED ROW m, v;
    EACH m[k] = v[k] = 0.0f;
    for (int i = 0; i < n; i++)
        EACH {
            const float a = fabsf(x[i][k]);
            v[k] = a > m[k] ? x[i][k] : v[k];
            m[k] = a > m[k] ? a : m[k];
        }
    EACH magnitude[k] = m[k], value[k] = v[k];
}

/* The search of ggml's make_qx_quants with weights x*x: scale per lane, and the step whose codes it keeps; both
 * 0 in a lane of nothing. Here step * x never leaves ROUNDER_REACH: |x| is at most the extreme, which is not
 * below NOTHING. */
INLINE void AT(symmetric_search)(int n, int half, ROW *RESTRICT x, float *scale, float *kept) {
    ALIGNED ROW w[16], wx[16], magnitude, extreme, step, sum_lx, sum_ll, sc, ke, best;
    for (int i = 0; i < n; i++) EACH w[i][k] = x[i][k] * x[i][k], wx[i][k] = w[i][k] * x[i][k];
    AT(extreme)(n, x, magnitude, extreme);
    /* An infinite extreme makes every step of a lane of nothing 0, without a choice. */
    EACH extreme[k] = magnitude[k] < NOTHING ? INFINITY : extreme[k];
    EACH step[k] = -(float)half / extreme[k];
    AT(symmetric_sums)(n, half, x, w, wx, step, sum_lx, sum_ll);
    EACH {
        const float quotient = sum_lx[k] / sum_ll[k];
        sc[k] = sum_ll[k] != 0.0f ? quotient : 0.0f;
        best[k] = sc[k] * sum_lx[k];
        ke[k] = step[k];
    }
    for (int s = -9; s <= 9; s++) {
        if (s == 0) continue;
        const float factor = -((float)half + 0.1f * (float)s);
        EACH step[k] = factor / extreme[k];
        AT(symmetric_sums)(n, half, x, w, wx, step, sum_lx, sum_ll);
        EACH {
            const float quotient = sum_lx[k] / sum_ll[k];
            const int better = (sum_ll[k] > 0.0f) & (sum_lx[k] * sum_lx[k] > best[k] * sum_ll[k]);
            sc[k] = better ? quotient : sc[k];
            best[k] = better ? quotient * sum_lx[k] : best[k];
            ke[k] = better ? step[k] : ke[k];
        }
    }
    EACH scale[k] = magnitude[k] < NOTHING ? 0.0f : sc[k];
    EACH kept[k] = ke[k];
}

/* The scale of largest magnitude among 16, the first of equals. */
INLINE float AT(largest)(const float *scales) {
    float largest = 0.0f;
    for (int k = 0; k < 16; k++)
        if (fabsf(scales[k]) > fabsf(largest)) largest = scales[k];
    return largest;
}

/* The rest of a Q6_K block, given what the search found for its 16 sub-blocks. */
OWN void AT(finish_six)(const float *RESTRICT rows, const float *scales, const float *step, uint8_t *RESTRICT out) {
    ALIGNED uint8_t codes[SUPER];
    const float extreme = AT(largest)(scales);
    if (fabsf(extreme) < NOTHING) {
        memset(out, 0, 210);
        return;
    }
    const float inverse = -128.0f / extreme;
    const uint16_t d = half_of(1.0f / inverse);
    put_half(out + 208, d);
    for (int k = 0; k < 16; k++) {
        const int32_t s = nearest(inverse * scales[k]);
        out[192 + k] = (uint8_t)(s < 127 ? s : 127);
        const float scale = float_of_half(d) * (float)(int8_t)out[192 + k];
        AT(codes_16)(rows + 16 * k, 0.0f, scale, 0.0f, step[k], -32, 31, codes + 16 * k);
        if (scale == 0.0f && step[k] == 0.0f) memset(codes + 16 * k, 0, 16);
    }
    for (int h = 0; h < 2; h++) {
        const uint8_t *RESTRICT c = codes + 128 * h;
        uint8_t *RESTRICT low = out + 64 * h, *RESTRICT high = out + 128 + 32 * h;
        for (int i = 0; i < 64; i++) low[i] = (uint8_t)((c[i] & 15) | (c[i + 64] & 15) << 4);
        for (int i = 0; i < 32; i++)
            high[i] = (uint8_t)(c[i] >> 4 | c[i + 32] >> 4 << 2 | c[i + 64] >> 4 << 4 | c[i + 96] >> 4 << 6);
    }
}

static void AT(q6_k)(const float *RESTRICT rows, uint8_t *RESTRICT out, int64_t blocks) {
    ALIGNED ROW x[16], found, step;
    for (int64_t b = 0; b < blocks; b += LANES / 16) {
        const int count = blocks - b < LANES / 16 ? (int)(blocks - b) : LANES / 16;
        if (count < LANES / 16) memset(x, 0, sizeof x);
        AT(spread)(16, 16 * count, rows, x);
        AT(symmetric_search)(16, 32, x, found, step);
        for (int p = 0; p < 16 * count; p += 16, rows += SUPER, out += 210)
            AT(finish_six)(rows, found + p, step + p, out);
    }
}

/* The search of ggml's make_q3_quants: codes from the plain step, then improved one by one, at most 5 rounds.
 * Codes come back from 0 on; scale 0 and codes 0 in a lane of nothing. */
INLINE void AT(three_search)(ROW *RESTRICT x, ROW *RESTRICT code, float *scale) {
    ALIGNED ROW w[16], wx[16], magnitude, extreme, step, lx, ll;
    for (int i = 0; i < 16; i++) EACH w[i][k] = x[i][k] * x[i][k], wx[i][k] = w[i][k] * x[i][k];
    AT(extreme)(16, x, magnitude, extreme);
    EACH extreme[k] = magnitude[k] < NOTHING ? INFINITY : extreme[k];
    EACH step[k] = -4.0f / extreme[k];
    EACH lx[k] = ll[k] = 0.0f;
    for (int i = 0; i < 16; i++)
        EACH {
            const float c = nearest_within(step[k] * x[i][k], -4, 3);
            code[i][k] = c;
            lx[k] += wx[i][k] * c;
            ll[k] += w[i][k] * c * c;
        }
    for (int round = 0; round < 5; round++) {
        ALIGNED int32_t change[LANES];
        int32_t changed = 0;
        EACH change[k] = 0;
        for (int i = 0; i < 16; i++)
            EACH {
                const float c = code[i][k];
                const float rest_lx = lx[k] - wx[i][k] * c;
                const float rest_ll = ll[k] - w[i][k] * c * c;
                const float next = (float)clamp(nearest(x[i][k] * rest_ll / rest_lx), -4, 3);
                const float new_lx = rest_lx + wx[i][k] * next;
                const float new_ll = rest_ll + w[i][k] * next * next;
                const int better = (rest_lx > 0.0f) & (next != c) & (new_ll > 0.0f) &
                                   (new_lx * new_lx * ll[k] > lx[k] * lx[k] * new_ll);
                code[i][k] = better ? next : c;
                lx[k] = better ? new_lx : lx[k];
                ll[k] = better ? new_ll : ll[k];
                change[k] |= better;
            }
        EACH changed |= change[k];
        if (!changed) break;
    }
    for (int i = 0; i < 16; i++) EACH code[i][k] = magnitude[k] < NOTHING ? 0.0f : code[i][k] + 4.0f;
    EACH {
        const float quotient = lx[k] / ll[k];
        const int some = !(magnitude[k] < NOTHING) & (ll[k] > 0.0f);
        scale[k] = some ? quotient : 0.0f;
    }
}

/* The rest of a Q3_K block, given what the search found for its 16 sub-blocks, lanes from `lane` on. */
OWN void AT(finish_three)(const float *RESTRICT rows, const float *scales, ROW *RESTRICT code, int lane,
                          uint8_t *RESTRICT out) {
    ALIGNED uint8_t codes[SUPER];
    const float extreme = AT(largest)(scales);
    const float inverse = -32.0f / extreme;
    const uint16_t d = extreme != 0.0f ? half_of(1.0f / inverse) : 0;
    uint8_t *packed = out + 96;
    memset(packed, 0, 12);
    put_half(out + 108, d);
    for (int k = 0; k < 16; k++) {
        int s = 0;
        if (extreme != 0.0f) s = clamp((int8_t)nearest(inverse * scales[k]), -32, 31) + 32;
        packed[k & 7] |= (uint8_t)((s & 15) << (k < 8 ? 0 : 4));
        packed[8 + (k & 3)] |= (uint8_t)(s >> 4 << 2 * (k / 4));
        const float scale = float_of_half(d) * (float)(s - 32);
        AT(codes_16)(rows + 16 * k, 0.0f, scale, 0.0f, 0.0f, -4, 3, codes + 16 * k);
        if (scale == 0.0f)
            for (int i = 0; i < 16; i++) codes[16 * k + i] = (uint8_t)code[i][lane + k];
    }
    for (int i = 0; i < 32; i++) {
        int high = 0;
        for (int j = 0; j < 8; j++) high |= (codes[32 * j + i] >> 2) << j;
        out[i] = (uint8_t)high;
    }
    AT(pack_two)(codes, out + 32);
}

static void AT(q3_k)(const float *RESTRICT rows, uint8_t *RESTRICT out, int64_t blocks) {
    ALIGNED ROW x[16], code[16], found;
    for (int64_t b = 0; b < blocks; b += LANES / 16) {
        const int count = blocks - b < LANES / 16 ? (int)(blocks - b) : LANES / 16;
        if (count < LANES / 16) memset(x, 0, sizeof x);
        AT(spread)(16, 16 * count, rows, x);
        AT(three_search)(x, code, found);
        for (int p = 0; p < 16 * count; p += 16, rows += SUPER, out += 110)
            AT(finish_three)(rows, found + p, code, p, out);
    }
}

/* ---- blocks of 32 without a search: Q4_0, Q5_0, Q8_0, Q4_1, Q5_1 -------------------------------------- */

/* Largest magnitude of a block; reductions run on the bits because order does not matter to integers. */
INLINE float AT(magnitude)(const float *RESTRICT x) {
    int32_t most = 0;
    for (int i = 0; i < 32; i++) {
        const int32_t bits = (int32_t)(bits_of(x[i]) & 0x7FFFFFFF);
        most = bits > most ? bits : most;
    }
    return float_of((uint32_t)most);
}

/* The first value of a block whose magnitude is `magnitude`; 31 is the last that it can be. */
INLINE float AT(first_of)(const float *RESTRICT x, float magnitude) {
    int32_t at = 31;
    for (int i = 0; i < 32; i++) {
        const int32_t here = fabsf(x[i]) == magnitude ? i : 31;
        at = here < at ? here : at;
    }
    return x[at];
}

INLINE void AT(extremes)(const float *RESTRICT x, float *least, float *most) {
    /* Float bits as integers of the same order, but for the two zeros. */
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int i = 0; i < 32; i++) {
        const int32_t bits = (int32_t)bits_of(x[i]);
        const int32_t key = bits ^ ((bits >> 31) & 0x7FFFFFFF);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *least = float_of((uint32_t)(low ^ ((low >> 31) & 0x7FFFFFFF)));
    *most = float_of((uint32_t)(high ^ ((high >> 31) & 0x7FFFFFFF)));
    if (*least == 0.0f) *least = AT(first_of)(x, 0.0f); /* the sign of the first zero is stored */
    if (*most == 0.0f) *most = AT(first_of)(x, 0.0f);
}

/* Low four bits of 32 codes, and the fifth of each when `fifth` is given. */
INLINE void AT(pack_four)(const int32_t *RESTRICT c, uint8_t *RESTRICT out, uint8_t *RESTRICT fifth) {
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)((c[i] & 15) | (c[i + 16] & 15) << 4);
    if (!fifth) return;
    uint32_t high = 0;
    for (int i = 0; i < 32; i++) high |= (uint32_t)(c[i] >> 4 & 1) << i;
    for (int i = 0; i < 4; i++) fifth[i] = (uint8_t)(high >> 8 * i);
}

INLINE void AT(centred)(int five, const float *RESTRICT x, uint8_t *RESTRICT out, int64_t blocks) {
    const int half = five ? 16 : 8;
    ALIGNED int32_t c[32];
    for (int64_t b = 0; b < blocks; b++, x += 32, out += five ? 22 : 18) {
        const float magnitude = AT(magnitude)(x);
        const float d = (magnitude > 0.0f ? AT(first_of)(x, magnitude) : 0.0f) / (float)-half;
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        for (int i = 0; i < 32; i++) {
            const int32_t code = (int8_t)truncated(x[i] * inverse + ((float)half + 0.5f));
            c[i] = code < 2 * half - 1 ? code : 2 * half - 1;
        }
        put_half(out, half_of(d));
        AT(pack_four)(c, out + (five ? 6 : 2), five ? out + 2 : NULL);
    }
}

INLINE void AT(shifted)(int five, const float *RESTRICT x, uint8_t *RESTRICT out, int64_t blocks) {
    const int top = five ? 31 : 15;
    ALIGNED int32_t c[32];
    for (int64_t b = 0; b < blocks; b++, x += 32, out += five ? 24 : 20) {
        float least, most;
        AT(extremes)(x, &least, &most);
        const float d = (most - least) / (float)top;
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        for (int i = 0; i < 32; i++) {
            const int32_t code = (int8_t)truncated((x[i] - least) * inverse + 0.5f);
            c[i] = !five && code > top ? top : code;
        }
        put_half(out, half_of(d));
        put_half(out + 2, half_of(least));
        AT(pack_four)(c, out + (five ? 8 : 4), five ? out + 4 : NULL);
    }
}

static void AT(q4_0)(const float *x, uint8_t *out, int64_t blocks) { AT(centred)(0, x, out, blocks); }
static void AT(q5_0)(const float *x, uint8_t *out, int64_t blocks) { AT(centred)(1, x, out, blocks); }
static void AT(q4_1)(const float *x, uint8_t *out, int64_t blocks) { AT(shifted)(0, x, out, blocks); }
static void AT(q5_1)(const float *x, uint8_t *out, int64_t blocks) { AT(shifted)(1, x, out, blocks); }

static void AT(q8_0)(const float *RESTRICT x, uint8_t *RESTRICT out, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, x += 32, out += 34) {
        const float d = AT(magnitude)(x) / 127.0f;
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        put_half(out, half_of(d));
        for (int i = 0; i < 32; i++) {
            /* Half away from zero, without a call: the largest float below 0.5 does not carry 0.49999997 over. */
            const float product = x[i] * inverse;
            out[2 + i] = (uint8_t)truncated(product + copysignf(0.49999997f, product));
        }
    }
}

/* ---- conversions ------------------------------------------------------------------------------------- */

#define CONVERSION(name, source, target, expression, finite)                                   \
    static int64_t AT(name)(const void *RESTRICT from, void *RESTRICT to, int64_t count) {     \
        const source *RESTRICT in = from;                                                      \
        target *RESTRICT out = to;                                                             \
        int64_t first = -1;                                                                    \
        for (int64_t at = 0; at < count; at += 1024) {                                         \
            const int n = count - at < 1024 ? (int)(count - at) : 1024;                        \
            int32_t bad = 0;                                                                   \
            for (int i = 0; i < n; i++) {                                                      \
                const source v = in[at + i];                                                   \
                out[at + i] = expression;                                                      \
                bad |= !(finite);                                                              \
            }                                                                                  \
            if (bad && first < 0)                                                              \
                for (int i = 0; i < n && first < 0; i++) {                                     \
                    const source v = in[at + i];                                               \
                    if (!(finite)) first = at + i;                                             \
                }                                                                              \
        }                                                                                      \
        return first;                                                                          \
    }

CONVERSION(brain_to_float, uint16_t, float, float_of((uint32_t)v << 16), (v & 0x7F80) != 0x7F80)
CONVERSION(half_to_float, uint16_t, float, float_of_half(v), (v & 0x7C00) != 0x7C00)
CONVERSION(float_to_brain, float, uint16_t, brain_of(v), (bits_of(v) & 0x7F800000) != 0x7F800000)
CONVERSION(float_to_half, float, uint16_t, half_of(v), (bits_of(v) & 0x7F800000) != 0x7F800000)
#undef CONVERSION

static const level AT(level) = {
    LEVEL_NAME,
    {[Q4_0] = AT(q4_0),
     [Q4_1] = AT(q4_1),
     [Q5_0] = AT(q5_0),
     [Q5_1] = AT(q5_1),
     [Q8_0] = AT(q8_0),
     [Q2_K] = AT(q2_k),
     [Q3_K] = AT(q3_k),
     [Q4_K] = AT(q4_k),
     [Q5_K] = AT(q5_k),
     [Q6_K] = AT(q6_k)},
    {[BRAIN_TO_FLOAT] = AT(brain_to_float),
     [HALF_TO_FLOAT] = AT(half_to_float),
     [FLOAT_TO_BRAIN] = AT(float_to_brain),
     [FLOAT_TO_HALF] = AT(float_to_half)},
};

#undef EACH
#undef ROW
#undef VECTOR
#undef LEVEL
#undef LEVEL_NAME
