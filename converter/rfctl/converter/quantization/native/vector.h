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
#define PARTS for (int part = 0; part < LANES; part += VECTOR)

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
    PARTS {
        const V st = OP(load_ps)(step + part), ba = OP(load_ps)(base + part);
        V l = OP(setzero_ps)(), ll = l, lx = l;
        for (int i = 0; i < n; i++) {
            const V v = OP(load_ps)(x[i] + part);
            const V c = AT(nearest_all)(OP(mul_ps)(st, OP(sub_ps)(v, ba)), 0, top);
            const V wc = OP(mul_ps)(OP(load_ps)(w[i] + part), c);
            OP(store_ps)(code[i] + part, c);
            l = OP(add_ps)(l, wc);
            ll = OP(add_ps)(ll, OP(mul_ps)(wc, c));
            lx = OP(add_ps)(lx, OP(mul_ps)(wc, v));
        }
        OP(store_ps)(sum_l + part, l);
        OP(store_ps)(sum_ll + part, ll);
        OP(store_ps)(sum_lx + part, lx);
    }
}

INLINE void AT(affine_error)(int n, int absolute, ROW *RESTRICT x, ROW *RESTRICT w, ROW *RESTRICT code,
                             const float *scale, const float *low, float *error) {
    const V magnitude = TO_FLOAT(OP(set1_epi32)(0x7FFFFFFF));
    PARTS {
        const V sc = OP(load_ps)(scale + part), lo = OP(load_ps)(low + part);
        V sum = OP(setzero_ps)();
        for (int i = 0; i < n; i++) {
            const V near = OP(add_ps)(OP(mul_ps)(sc, OP(load_ps)(code[i] + part)), lo);
            const V off = OP(sub_ps)(near, OP(load_ps)(x[i] + part));
            const V cost = absolute ? OP(and_ps)(off, magnitude) : OP(mul_ps)(off, off);
            sum = OP(add_ps)(sum, OP(mul_ps)(OP(load_ps)(w[i] + part), cost));
        }
        OP(store_ps)(error + part, sum);
    }
}

INLINE void AT(symmetric_sums)(int n, int half, ROW *RESTRICT x, ROW *RESTRICT w, ROW *RESTRICT wx,
                               const float *step, float *sum_lx, float *sum_ll) {
    PARTS {
        const V st = OP(load_ps)(step + part);
        V lx = OP(setzero_ps)(), ll = lx;
        for (int i = 0; i < n; i++) {
            const V c = AT(nearest_all)(OP(mul_ps)(st, OP(load_ps)(x[i] + part)), -half, half - 1);
            lx = OP(add_ps)(lx, OP(mul_ps)(OP(load_ps)(wx[i] + part), c));
            ll = OP(add_ps)(ll, OP(mul_ps)(OP(mul_ps)(OP(load_ps)(w[i] + part), c), c));
        }
        OP(store_ps)(sum_lx + part, lx);
        OP(store_ps)(sum_ll + part, ll);
    }
}

#undef V
#undef OP
#undef TO_INT
#undef TO_FLOAT
#undef PARTS
