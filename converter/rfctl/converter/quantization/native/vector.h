/* The inner sums of the searches with intrinsics; the arithmetic is that of loop.h. VECTOR is the number of
 * floats in a register, OP and CAST make the names of the intrinsics. Compilers turn loop.h into good code only
 * by luck, and these sums are where the time goes. */

#if VECTOR == 16
#define V __m512
#define OP(name) _mm512_##name
#define TO_INT _mm512_castps_si512
#define TO_FLOAT _mm512_castsi512_ps
#elif VECTOR == 8
#define V __m256
#define OP(name) _mm256_##name
#define TO_INT _mm256_castps_si256
#define TO_FLOAT _mm256_castsi256_ps
#else
#define V __m128
#define OP(name) _mm_##name
#define TO_INT _mm_castps_si128
#define TO_FLOAT _mm_castsi128_ps
#endif
/* Two registers of lanes at a time: the latency of one hides behind the other. */
#define PAIRS for (int part = 0; part < LANES; part += 2 * VECTOR)
#define BOTH for (int h = 0; h < 2; h++)
#define PLACE (part + h * VECTOR)

INLINE void AT(spread)(int n, int used, const float *RESTRICT rows, ROW *RESTRICT x) {
    for (int k = 0; k < used; k += 4)
        for (int i = 0; i < n; i += 4) {
            const float *RESTRICT from = rows + k * n + i;
            __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + n);
            __m128 c = _mm_loadu_ps(from + 2 * n), d = _mm_loadu_ps(from + 3 * n);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_store_ps(x[i] + k, a);
            _mm_store_ps(x[i + 1] + k, b);
            _mm_store_ps(x[i + 2] + k, c);
            _mm_store_ps(x[i + 3] + k, d);
        }
}

INLINE V AT(nearest_all)(V value, int low, int high) {
    V bits = OP(add_ps)(value, OP(set1_ps)(ROUNDER));
    bits = TO_FLOAT(OP(min_epi32)(TO_INT(bits), OP(set1_epi32)(ROUNDER_BITS + high)));
    bits = TO_FLOAT(OP(max_epi32)(TO_INT(bits), OP(set1_epi32)(ROUNDER_BITS + low)));
    return OP(sub_ps)(bits, OP(set1_ps)(ROUNDER));
}

INLINE void AT(affine_sums)(int n, int top, ROW *RESTRICT x, ROW *RESTRICT w, const float *step, const float *base,
                            ROW *RESTRICT code, float *sum_l, float *sum_ll, float *sum_lx) {
    PAIRS {
        V st[2], ba[2], l[2], ll[2], lx[2];
        BOTH {
            st[h] = OP(load_ps)(step + PLACE);
            ba[h] = OP(load_ps)(base + PLACE);
            l[h] = ll[h] = lx[h] = OP(setzero_ps)();
        }
        for (int i = 0; i < n; i++)
            BOTH {
                const V v = OP(load_ps)(x[i] + PLACE);
                const V c = AT(nearest_all)(OP(mul_ps)(st[h], OP(sub_ps)(v, ba[h])), 0, top);
                const V wc = OP(mul_ps)(OP(load_ps)(w[i] + PLACE), c);
                OP(store_ps)(code[i] + PLACE, c);
                l[h] = OP(add_ps)(l[h], wc);
                ll[h] = OP(add_ps)(ll[h], OP(mul_ps)(wc, c));
                lx[h] = OP(add_ps)(lx[h], OP(mul_ps)(wc, v));
            }
        BOTH {
            OP(store_ps)(sum_l + PLACE, l[h]);
            OP(store_ps)(sum_ll + PLACE, ll[h]);
            OP(store_ps)(sum_lx + PLACE, lx[h]);
        }
    }
}

INLINE void AT(affine_error)(int n, int absolute, ROW *RESTRICT x, ROW *RESTRICT w, ROW *RESTRICT code,
                             const float *scale, const float *low, float *error) {
    const V magnitude = TO_FLOAT(OP(set1_epi32)(0x7FFFFFFF));
    PAIRS {
        V sc[2], lo[2], sum[2];
        BOTH {
            sc[h] = OP(load_ps)(scale + PLACE);
            lo[h] = OP(load_ps)(low + PLACE);
            sum[h] = OP(setzero_ps)();
        }
        for (int i = 0; i < n; i++)
            BOTH {
                const V near = OP(add_ps)(OP(mul_ps)(sc[h], OP(load_ps)(code[i] + PLACE)), lo[h]);
                const V off = OP(sub_ps)(near, OP(load_ps)(x[i] + PLACE));
                const V cost = absolute ? OP(and_ps)(off, magnitude) : OP(mul_ps)(off, off);
                sum[h] = OP(add_ps)(sum[h], OP(mul_ps)(OP(load_ps)(w[i] + PLACE), cost));
            }
        BOTH OP(store_ps)(error + PLACE, sum[h]);
    }
}

INLINE void AT(symmetric_sums)(int n, int half, ROW *RESTRICT x, ROW *RESTRICT w, ROW *RESTRICT wx,
                               const float *step, float *sum_lx, float *sum_ll) {
    PAIRS {
        V st[2], lx[2], ll[2];
        BOTH {
            st[h] = OP(load_ps)(step + PLACE);
            lx[h] = ll[h] = OP(setzero_ps)();
        }
        for (int i = 0; i < n; i++)
            BOTH {
                const V c = AT(nearest_all)(OP(mul_ps)(st[h], OP(load_ps)(x[i] + PLACE)), -half, half - 1);
                lx[h] = OP(add_ps)(lx[h], OP(mul_ps)(OP(load_ps)(wx[i] + PLACE), c));
                ll[h] = OP(add_ps)(ll[h], OP(mul_ps)(OP(mul_ps)(OP(load_ps)(w[i] + PLACE), c), c));
            }
        BOTH {
            OP(store_ps)(sum_lx + PLACE, lx[h]);
            OP(store_ps)(sum_ll + PLACE, ll[h]);
        }
    }
}

#undef V
#undef OP
#undef TO_INT
#undef TO_FLOAT
#undef PAIRS
#undef BOTH
#undef PLACE
