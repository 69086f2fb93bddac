/* marey for C: fast kernels for video and temporal models.
 *
 * Every function takes arrays that the caller owns, writes its results to arrays that the caller
 * allocated, keeps no pointer, and returns MAREY_OK or says what was wrong. Functions may be called
 * from several threads at once. What each one computes is said at the function of the same name in
 * the Python package, whose documentation has the formulas and their sources.
 *
 * Link with marey::cpu (find_package(marey) in CMake) and the C++ runtime.
 */
#ifndef MAREY_MAREY_H
#define MAREY_MAREY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  MAREY_UINT8 = 0,
  MAREY_FLOAT32 = 1,
  MAREY_FLOAT64 = 2,
  MAREY_BFLOAT16 = 3
} marey_dtype;

typedef enum {
  MAREY_OK = 0,
  MAREY_VALUE_ERROR = 1, /* a shape, a size or an option does not fit */
  MAREY_TYPE_ERROR = 2,  /* an array is of another type */
  MAREY_NO_MEMORY = 3,
  MAREY_ERROR = 4
} marey_status;

enum { MAREY_MAX_DIMS = 16, MAREY_NO_CHANNELS = -1000 };

/* An array in memory that somebody else owns. Strides are in bytes, of any sign; results must have
 * adjacent items along their last axes, as C order gives. */
typedef struct {
  void* data;
  marey_dtype dtype;
  int32_t ndim;
  int64_t shape[MAREY_MAX_DIMS];
  int64_t strides[MAREY_MAX_DIMS];
} marey_array;

/* A C-ordered array. */
marey_array marey_array_of(void* data, marey_dtype dtype, int32_t ndim, const int64_t* shape);

/* What the last call that failed in this thread had to say: "[marey.down] image: expected ...". */
const char* marey_last_error(void);

/* The instruction set in use ("avx512"), and choosing a lesser one; MAREY_ISA in the environment
 * does so from outside. */
const char* marey_isa(void);
marey_status marey_set_isa(const char* name);

/* How many threads a call uses at most; 0 sets what OpenMP would use. */
int32_t marey_num_threads(void);
void marey_set_num_threads(int32_t count);

/* ---- pyramids: images (..., H, W) or with a channel axis, else MAREY_NO_CHANNELS; uint8, float32
 * or float64 -------------------------------------------------------------------------------------
 */

/* out: (..., ceil(H / 2), ceil(W / 2)), of the image's type. */
marey_status marey_down(const marey_array* image, int32_t channel_axis, const marey_array* out);

/* out: (..., 2 H, 2 W), or one less or more where that is odd; of the image's type. */
marey_status marey_up(const marey_array* image, int32_t channel_axis, const marey_array* out);

/* out: levels + 1 arrays, each half the size of the one before; float32 for uint8 images. */
marey_status marey_laplacian(const marey_array* image, int32_t levels, int32_t channel_axis,
                             const marey_array* out);

/* The inverse of marey_laplacian. bands: levels + 1 arrays; out: as bands[0]. */
marey_status marey_collapse(const marey_array* bands, int32_t levels, int32_t channel_axis,
                            const marey_array* out);

/* What gradients need: if y = down(x), down_adjoint takes dL/dy (grad) to dL/dx (out); the same for
 * up. float32 or float64. */
marey_status marey_down_adjoint(const marey_array* grad, int32_t channel_axis,
                                const marey_array* out);
marey_status marey_up_adjoint(const marey_array* grad, int32_t channel_axis,
                              const marey_array* out);

/* ---- filters along one axis: x uint8, float32 or float64; y of x's shape, float32 for uint8
 * ------ */

/* sos: sections rows b0 b1 b2 a0 a1 a2 with a0 = 1. y may be x. zi, zf: the state before and after,
 * x's shape with the axis of length 2, behind an axis for the sections, of y's type; either may be
 * null (rest; not wanted), and they may be the same. */
marey_status marey_sosfilt(const double* sos, int64_t sections, const marey_array* x, int32_t axis,
                           const marey_array* zi, const marey_array* zf, const marey_array* y);

typedef enum { MAREY_ODD = 0, MAREY_EVEN = 1, MAREY_CONSTANT = 2 } marey_extension;

/* Forward and backward: no delay. x has more than padlen steps; padlen < 0 is SciPy's default.
 * y may be x. */
marey_status marey_sosfiltfilt(const double* sos, int64_t sections, const marey_array* x,
                               int32_t axis, marey_extension extension, int64_t padlen,
                               const marey_array* y);

typedef enum {
  MAREY_REFLECT = 0,    /* b a | a b */
  MAREY_NEAREST = 1,    /* a a | a b */
  MAREY_MIRROR = 2,     /* c b | a b */
  MAREY_WRAP = 3,       /* y z | a b */
  MAREY_BY_CONSTANT = 4 /* by cval */
} marey_boundary;

/* taps[size / 2 + origin] meets step t itself. */
marey_status marey_convolve(const marey_array* x, int32_t axis, const double* taps, int64_t size,
                            marey_boundary boundary, int64_t origin, double cval,
                            const marey_array* y);

/* The window of step t starts at t - size / 2 - origin. y: of x's type. */
marey_status marey_median_filter(const marey_array* x, int32_t axis, int64_t size,
                                 marey_boundary boundary, int64_t origin, double cval,
                                 const marey_array* y);

/* y: x's shape without the axis. */
marey_status marey_median(const marey_array* x, int32_t axis, const marey_array* y);

/* Keeps bins first .. last of the frequencies k / (steps of x), k = 0 .. steps / 2. y may be x. */
marey_status marey_ideal_bandpass(const marey_array* x, int32_t axis, int64_t first, int64_t last,
                                  const marey_array* y);

/* ---- attention --------------------------------------------------------------------------------
 */

typedef struct {
  double scale;   /* 0: 1 / sqrt(D) */
  double softcap; /* 0: none */
  /* How many keys a query sees to the left and right of its own place; negative: all. */
  int64_t left;
  int64_t right;
  /* Where that place is if there are more keys than queries: 1: key l; 2: key l + S - L. */
  int32_t alignment;
} marey_attention_options;

/* Scale by default, all keys seen. */
marey_attention_options marey_attention_defaults(void);

/* q (..., h, L, D), k (..., h_kv, S, D), v (..., h_kv, S, Dv), out (..., h, L, Dv): float32,
 * float64 or bfloat16. mask: uint8 (..., h, L, S) or null; bias: (..., h, L, S) or null; lse: (...,
 * h, L) or null, the last two float32 unless q is float64. Strides of 0 broadcast. options: null
 * for the defaults. */
marey_status marey_attention(const marey_array* q, const marey_array* k, const marey_array* v,
                             const marey_array* mask, const marey_array* bias,
                             const marey_attention_options* options, const marey_array* out,
                             const marey_array* lse);

#ifdef __cplusplus
}
#endif

#endif /* MAREY_MAREY_H */
