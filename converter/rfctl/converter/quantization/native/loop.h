/* The inner sums of the searches as plain loops over the lanes; see vector.h for the same with intrinsics. */

/* `used` sub-blocks of `n` values, one after the other, to x[value][lane]. */
INLINE void AT(spread)(int n, int used, const float *RESTRICT rows, ROW *RESTRICT x) {
    for (int k = 0; k < used; k++)
        for (int i = 0; i < n; i++) x[i][k] = rows[k * n + i];
}

/* Codes and their weighted sums for one step per lane; every product is within ROUNDER_REACH. */
INLINE void AT(affine_sums)(int n, int top, ROW *RESTRICT x, ROW *RESTRICT w, const float *step, const float *base,
                            ROW *RESTRICT code, float *sum_l, float *sum_ll, float *sum_lx) {
    ALIGNED ROW l, ll, lx, st, ba;
    EACH l[k] = ll[k] = lx[k] = 0.0f, st[k] = step[k], ba[k] = base[k];
    for (int i = 0; i < n; i++)
        EACH {
            const float c = nearest_within(st[k] * (x[i][k] - ba[k]), 0, top);
            const float wc = w[i][k] * c;
            code[i][k] = c;
            l[k] += wc;
            ll[k] += wc * c;
            lx[k] += wc * x[i][k];
        }
    EACH sum_l[k] = l[k], sum_ll[k] = ll[k], sum_lx[k] = lx[k];
}

/* Weighted error, absolute or squared, of scale * code + low. */
INLINE void AT(affine_error)(int n, int absolute, ROW *RESTRICT x, ROW *RESTRICT w, ROW *RESTRICT code,
                             const float *scale, const float *low, float *error) {
    ALIGNED ROW sum, sc, lo;
    EACH sum[k] = 0.0f, sc[k] = scale[k], lo[k] = low[k];
    for (int i = 0; i < n; i++)
        EACH {
            const float off = sc[k] * code[i][k] + lo[k] - x[i][k];
            sum[k] += w[i][k] * (absolute ? fabsf(off) : off * off);
        }
    EACH error[k] = sum[k];
}

/* Sums of weight * value * code and weight * code * code for one step per lane, code from -half to half - 1. */
INLINE void AT(symmetric_sums)(int n, int half, ROW *RESTRICT x, ROW *RESTRICT w, ROW *RESTRICT wx,
                               const float *step, float *sum_lx, float *sum_ll) {
    ALIGNED ROW lx, ll, st;
    EACH lx[k] = ll[k] = 0.0f, st[k] = step[k];
    for (int i = 0; i < n; i++)
        EACH {
            const float c = nearest_within(st[k] * x[i][k], -half, half - 1);
            lx[k] += wx[i][k] * c;
            ll[k] += w[i][k] * c * c;
        }
    EACH sum_lx[k] = lx[k], sum_ll[k] = ll[k];
}
