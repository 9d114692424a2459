#ifndef POLAR_ROTARY_CUH
#define POLAR_ROTARY_CUH
#include "prims.cuh"

/// Sine and cosine of an angle of any size that positions give. The library's own reduction keeps a table in local memory.
DEVI void sine_cosine(float angle, float& sine, float& cosine) {
  const double quarters = (double)angle * 0.63661977236758134308;
  const int k = (int)(quarters + (quarters < 0 ? -0.5 : 0.5));
  const float r = (float)((double)angle - k * 1.57079632679489661923);
  const float r2 = r * r;
  // Taylor polynomials: on |r| <= pi / 4 the first terms left out are below 3e-8.
  const float s = r + r * r2 * (-1.f / 6 + r2 * (1.f / 120 + r2 * (-1.f / 5040 + r2 * (1.f / 362880))));
  const float c = 1.f + r2 * (-0.5f + r2 * (1.f / 24 + r2 * (-1.f / 720 + r2 * (1.f / 40320))));
  sine = k & 1 ? c : s;
  cosine = k & 1 ? s : c;
  if (k & 2) sine = -sine;
  if ((k + 1) & 2) cosine = -cosine;
}

#endif
