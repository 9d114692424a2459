// Internal, included once per instruction set after vec.h: norms, activations, rotary embedding.

// The sum of (x - mean)^2 in a fixed order: VW running sums over whole vectors, then the rest one by one.
static float FN(sum_squares)(const float *x, float mean, int64_t n) {
  vf a = {0}, b = {0};
  int64_t i = 0;
  for (; i + 2 * VW <= n; i += 2 * VW) {
    vf u = FN(load)(x + i) - mean, v = FN(load)(x + i + VW) - mean;
    a = a + u * u;
    b = b + v * v;
  }
  float total = FN(sum)(a + b);
  for (; i < n; i++) {
    float u = x[i] - mean;
    total = total + u * u;
  }
  return total;
}

static float FN(sum_values)(const float *x, int64_t n) {
  vf a = {0}, b = {0};
  int64_t i = 0;
  for (; i + 2 * VW <= n; i += 2 * VW) {
    a = a + FN(load)(x + i);
    b = b + FN(load)(x + i + VW);
  }
  float total = FN(sum)(a + b);
  for (; i < n; i++) total = total + x[i];
  return total;
}

static float FN(dot)(const float *x, const float *y, int64_t n) {
  vf a = {0};
  int64_t i = 0;
  for (; i + VW <= n; i += VW) a = a + FN(load)(x + i) * FN(load)(y + i);
  float total = FN(sum)(a);
  for (; i < n; i++) total = total + x[i] * y[i];
  return total;
}

static void FN(rms_norm)(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t n = args->columns;
  for (int64_t row = low; row < high; row++) {
    const float *x = args->a + row * args->a_stride;
    float *out = args->out + row * args->out_stride;
    const float scale = 1.0f / __builtin_sqrtf(FN(sum_squares)(x, 0, n) / (float)n + args->epsilon);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * args->weight[i];
  }
}

static void FN(add)(const polar_row_args *args, int64_t low, int64_t high) {
  for (int64_t row = low; row < high; row++) {
    const float *x = args->a + row * args->a_stride;
    float *out = args->out + row * args->out_stride;
    for (int64_t i = 0; i < args->columns; i++) out[i] += x[i];
  }
}

static void FN(add_rms_norm)(const polar_row_args *args, int64_t low, int64_t high) {
  polar_row_args sum = *args;
  sum.out = (float *)args->a;
  sum.out_stride = args->a_stride;
  sum.a = args->b;
  sum.a_stride = args->b_stride;
  for (int64_t row = low; row < high; row++) {
    FN(add)(&sum, row, row + 1);
    FN(rms_norm)(args, row, row + 1);
  }
}

static void FN(layer_norm)(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t n = args->columns;
  for (int64_t row = low; row < high; row++) {
    const float *x = args->a + row * args->a_stride;
    float *out = args->out + row * args->out_stride;
    const float mean = FN(sum_values)(x, n) / (float)n;
    const float scale = 1.0f / __builtin_sqrtf(FN(sum_squares)(x, mean, n) / (float)n + args->epsilon);
    for (int64_t i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * args->weight[i] + args->bias[i];
  }
}

POLAR_ALWAYS_INLINE vf FN(silu)(vf x) {
  vf exponent = x * -1.44269504f;
  exponent = FN(select)(exponent > 126.0f, FN(splat)(126.0f), exponent);
  return x / (FN(exp2)(exponent) + 1.0f);
}

static void FN(silu_mul)(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t n = args->columns;
  for (int64_t row = low; row < high; row++) {
    const float *gate = args->a + row * args->a_stride, *up = gate + n;
    float *out = args->out + row * args->out_stride;
    int64_t i = 0;
    for (; i + VW <= n; i += VW) FN(store)(out + i, FN(silu)(FN(load)(gate + i)) * FN(load)(up + i));
    if (i < n) {
      float last[VW] = {0};
      for (int64_t j = 0; j < n - i; j++) last[j] = gate[i + j];
      const vf activated = FN(silu)(FN(load)(last));
      for (int64_t j = 0; j < n - i; j++) out[i + j] = activated[j] * up[i + j];
    }
  }
}

static void FN(relu_mul)(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t n = args->columns;
  for (int64_t row = low; row < high; row++) {
    const float *gate = args->a + row * args->a_stride, *up = gate + n;
    float *out = args->out + row * args->out_stride;
    for (int64_t i = 0; i < n; i++) out[i] = gate[i] > args->threshold ? gate[i] * up[i] : 0.0f;
  }
}

static void FN(relu)(const polar_row_args *args, int64_t low, int64_t high) {
  for (int64_t row = low; row < high; row++) {
    float *x = args->out + row * args->out_stride;
    for (int64_t i = 0; i < args->columns; i++) x[i] = x[i] < 0.0f ? 0.0f : x[i];
  }
}

// Sine and cosine of an angle below 2^31 in magnitude: reduction by pi/2 in double, then polynomials whose error is
// below a float's rounding.
static void FN(sine_cosine)(const float *angles, float *sine, float *cosine, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const double x = (double)angles[i];
    const double shifted = x * 0.63661977236758134308 + 6755399441055744.0;  // 1.5 * 2^52
    const double count = shifted - 6755399441055744.0;
    union { double d; uint64_t u; } bits = {shifted};
    const double r = (x - count * 1.57079632673412561417) - count * 6.07710050650619224932e-11;
    const double s = r * r;
    const double sin_r =
      r + r * s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880))));
    const double cos_r =
      1.0 + s * (-0.5 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 + s * (-1.0 / 3628800)))));
    const int swap = (bits.u & 1) != 0;
    const double first = swap ? cos_r : sin_r, second = swap ? sin_r : cos_r;
    sine[i] = (float)((bits.u & 2) != 0 ? -first : first);
    cosine[i] = (float)(((bits.u + 1) & 2) != 0 ? -second : second);
  }
}

static void FN(rotary)(const polar_row_args *args, int64_t low, int64_t high) {
  enum { chunk = 64 };
  const int64_t half = args->head_dim / 2;
  for (int64_t row = low; row < high; row++) {
    const float position = (float)args->indices[row];
    for (int64_t j0 = 0; j0 < half; j0 += chunk) {
      const int64_t n = half - j0 < chunk ? half - j0 : chunk;
      float angle[chunk], sine[chunk], cosine[chunk];
      for (int64_t j = 0; j < n; j++) angle[j] = position * args->weight[j0 + j];
      FN(sine_cosine)(angle, sine, cosine, n);
      for (int64_t head = 0; head < args->heads; head++) {
        float *x = args->out + row * args->out_stride + head * args->head_dim + j0, *y = x + half;
        for (int64_t j = 0; j < n; j++) {
          const float u = x[j], v = y[j];
          x[j] = u * cosine[j] - v * sine[j];
          y[j] = v * cosine[j] + u * sine[j];
        }
      }
    }
  }
}

// Key, value and slots travel as a, b and indices; `out` is the start of a bf16 cache, `columns` its pages.
static void FN(store_kv)(const polar_row_args *args, int64_t low, int64_t high) {
  enum { chunk = 64 };
  const int64_t head_dim = args->head_dim, pages = args->columns;
  uint16_t *blocks = (uint16_t *)args->out;
  for (int64_t row = low; row < high; row++) {
    const int64_t page = args->indices[row] / POLAR_PAGE, token = args->indices[row] % POLAR_PAGE;
    for (int64_t head = 0; head < args->heads; head++) {
      uint16_t *k = blocks + (head * pages + page) * 2 * POLAR_PAGE * head_dim;
      uint16_t *v = k + POLAR_PAGE * head_dim + token / 2 * 2 * head_dim + token % 2;
      const float *key = args->a + row * args->a_stride + head * head_dim;
      const float *value = args->b + row * args->b_stride + head * head_dim;
      for (int64_t d0 = 0; d0 < head_dim; d0 += chunk) {
        const int64_t n = head_dim - d0 < chunk ? head_dim - d0 : chunk;
        // Rounded first: a loop of its own is a loop of vectors.
        uint16_t keys[chunk], values[chunk];
        for (int64_t d = 0; d < n; d++) keys[d] = polar_bf16(key[d0 + d]);
        for (int64_t d = 0; d < n; d++) values[d] = polar_bf16(value[d0 + d]);
        for (int64_t d = 0; d < n; d += 2)
          __builtin_memcpy(k + (d0 + d) * POLAR_PAGE + token * 2, keys + d, 4);
        // The other token of the pair may be written by another thread.
        for (int64_t d = 0; d < n; d++) v[(d0 + d) * 2] = values[d];
      }
    }
  }
}

// The largest of `n` values; NaN when one is NaN.
static float FN(largest)(const float *x, int64_t n) {
  vf best[4] = {x[0] - (vf){0}, x[0] - (vf){0}, x[0] - (vf){0}, x[0] - (vf){0}};
  vi broken = {0};
  int64_t i = 0;
  for (; i + 4 * VW <= n; i += 4 * VW)
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
      const vf v = FN(load)(x + i + j * VW);
      broken |= v != v;
      best[j] = FN(max)(v, best[j]);
    }
  float top = FN(maximum)(FN(max)(FN(max)(best[0], best[1]), FN(max)(best[2], best[3])));
  for (int j = 0; j < VW; j++)
    if (broken[j]) return __builtin_nanf("");
  for (; i < n; i++) {
    if (x[i] != x[i]) return x[i];
    top = x[i] > top ? x[i] : top;
  }
  return top;
}

// Tokens, i32, travel as `out`. One pass finds the block with the largest logit, then that block is searched.
static void FN(argmax)(const polar_row_args *args, int64_t low, int64_t high) {
  enum { block = 1024 };
  for (int64_t row = low; row < high; row++) {
    const float *x = args->a + row * args->a_stride;
    float top = -__builtin_inff();
    int64_t place = 0;
    for (int64_t i = 0; i < args->columns && top == top; i += block) {
      const float value = FN(largest)(x + i, args->columns - i < block ? args->columns - i : block);
      if (!(value <= top)) top = value, place = i;
    }
    int32_t *token = (int32_t *)(void *)args->out + row;
    *token = -1;
    if (!(top - top == 0)) continue;  // NaN or infinite
    while (x[place] != top) place++;
    *token = (int32_t)place;
  }
}

static void FN(head_rms_norm)(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t n = args->head_dim;
  for (int64_t row = low; row < high; row++)
    for (int64_t head = 0; head < args->heads; head++) {
      float *x = args->out + row * args->out_stride + head * n;
      const float scale = 1.0f / __builtin_sqrtf(FN(sum_squares)(x, 0, n) / (float)n + args->epsilon);
      for (int64_t i = 0; i < n; i++) x[i] = x[i] * scale * args->weight[i];
    }
}

static void FN(head_norms)(const polar_row_args *args, int64_t low, int64_t high) {
  for (int64_t row = low; row < high; row++)
    for (int64_t head = 0; head < args->heads; head++)
      args->out[row * args->out_stride + head] = __builtin_sqrtf(
        FN(sum_squares)(args->a + row * args->a_stride + head * args->head_dim, 0, args->head_dim));
}

static void FN(head_deviations)(const polar_row_args *args, int64_t low, int64_t high) {
  const int64_t n = args->head_dim;
  for (int64_t row = low; row < high; row++) {
    const float norm = __builtin_sqrtf(FN(sum_squares)(args->b + row * args->b_stride, 0, args->columns));
    for (int64_t head = 0; head < args->heads; head++) {
      const float *a = args->a + row * args->a_stride + head * n;
      const float *c = args->c ? args->c + row * args->c_stride + head * n : NULL;
      const float *gram = args->weight + head * n * args->weight_stride;
      float d[1024];
      for (int64_t i = 0; i < n; i++) d[i] = c ? a[i] - c[i] : a[i];
      float total = 0;
      for (int64_t i = 0; i < n; i++) total = total + d[i] * FN(dot)(gram + i * args->weight_stride, d, n);
      // Rounding may push a form of nearly nothing below zero.
      args->out[row * args->out_stride + head] = __builtin_sqrtf(total > 0 ? total : 0) / norm;
    }
  }
}

static float FN(read)(const void *memory, size_t bytes) {
  const float *p = memory;
  vf a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t i = 0; i + 4 * VW <= bytes / 4; i += 4 * VW) {
    __builtin_prefetch((const char *)(p + i) + 4096, 0, 3);
    if (VW > 4) __builtin_prefetch((const char *)(p + i) + 4096 + 64, 0, 3);
    a = (vf)((vu)a ^ (vu)FN(load)(p + i));
    b = (vf)((vu)b ^ (vu)FN(load)(p + i + VW));
    c = (vf)((vu)c ^ (vu)FN(load)(p + i + 2 * VW));
    d = (vf)((vu)d ^ (vu)FN(load)(p + i + 3 * VW));
  }
  return ((vf)((vu)a ^ (vu)b ^ (vu)c ^ (vu)d))[0];
}

#if !defined(POLAR_PAIR_PEAK)
// The multiply-add of linear layers on f32 activations, from registers.
static double FN(fma)(int64_t steps, float *sink) {
  vf acc[12];
#pragma clang loop unroll(full)
  for (int i = 0; i < 12; i++) acc[i] = FN(splat)(sink[0] + (float)i);
  const vf x = FN(splat)(sink[1]), y = FN(splat)(sink[2]);
  for (int64_t step = 0; step < steps; step++)
#pragma clang loop unroll(full)
    for (int i = 0; i < 12; i++) acc[i] = acc[i] * x + y;
#pragma clang loop unroll(full)
  for (int i = 1; i < 12; i++) acc[0] = acc[0] + acc[i];
  FN(store)(sink, acc[0]);
  return (double)steps * 12 * VW * 2;
}
#endif

static void FN(fold)(int first, polar_partial *total, float m, float l, const float *o, int32_t head_dim) {
  if (first) {
    *total->m = m;
    *total->l = l;
    __builtin_memcpy(total->o, o, sizeof(float) * (size_t)head_dim);
    return;
  }
  const float top = m > *total->m ? m : *total->m;
  const float a = FN(exp2)(FN(splat)(*total->m - top))[0], b = FN(exp2)(FN(splat)(m - top))[0];
  *total->m = top;
  *total->l = *total->l * a + l * b;
  int32_t d = 0;
  for (; d + VW <= head_dim; d += VW) FN(store)(total->o + d, FN(load)(total->o + d) * a + FN(load)(o + d) * b);
  for (; d < head_dim; d++) total->o[d] = total->o[d] * a + o[d] * b;
}

static void FN(finish)(float *out, const float *total, float sum, int32_t head_dim) {
  if (sum == 0) {
    __builtin_memset(out, 0, sizeof(float) * (size_t)head_dim);
    return;
  }
  const float inverse = 1.0f / sum;
  int32_t d = 0;
  for (; d + VW <= head_dim; d += VW) FN(store)(out + d, FN(load)(total + d) * inverse);
  for (; d < head_dim; d++) out[d] = total[d] * inverse;
}
