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

/* Gradients of q, k and v from that of out, given what marey_attention wrote to out and lse. */
marey_status marey_attention_backward(const marey_array* grad, const marey_array* q,
                                      const marey_array* k, const marey_array* v,
                                      const marey_array* out, const marey_array* lse,
                                      const marey_array* mask, const marey_array* bias,
                                      const marey_attention_options* options,
                                      const marey_array* grad_q, const marey_array* grad_k,
                                      const marey_array* grad_v);

/* ---- linear layers ----------------------------------------------------------------------------
 */

/* y (..., K) = x (..., C) weight^T + bias: weight (K, C), bias (K,) or null; float32, float64 or
 * bfloat16. One stride steps through the leading axes of x and y. */
marey_status marey_linear(const marey_array* x, const marey_array* weight, const marey_array* bias,
                          const marey_array* y);

/* Gradients from that of y; null for those that are not wanted. */
marey_status marey_linear_backward(const marey_array* grad, const marey_array* x,
                                   const marey_array* weight, const marey_array* grad_x,
                                   const marey_array* grad_weight, const marey_array* grad_bias);

/* ---- convolution ------------------------------------------------------------------------------
 */

typedef enum {
  MAREY_NO_ACTIVATION = 0,
  MAREY_RELU = 1,
  MAREY_GELU = 2,
  MAREY_SILU = 3
} marey_activation;

/* Of time, height and width; padding by zeros before and after. */
typedef struct {
  int64_t stride[3];
  int64_t dilation[3];
  int64_t before[3];
  int64_t after[3];
  int64_t groups;
  marey_activation activation;
} marey_conv3d_options;

/* All ones; no padding, one group, no activation. */
marey_conv3d_options marey_conv3d_defaults(void);

/* Weights packed once, to be run many times, from several threads too. */
typedef struct marey_conv3d marey_conv3d;

/* weight (K, C / groups, kT, kH, kW): float32, float64 or bfloat16; bias (K,) or null. Both are
 * copied. options: null for the defaults. */
marey_status marey_conv3d_create(const marey_array* weight, const marey_array* bias,
                                 const marey_conv3d_options* options, marey_conv3d** conv);

/* x (N, C, T, H, W), y (N, K, T', H', W'): the axes in this order, in memory in any (strides). */
marey_status marey_conv3d_run(const marey_conv3d* conv, const marey_array* x, const marey_array* y);
void marey_conv3d_destroy(marey_conv3d* conv);

/* Gradients from that of y, without an activation; null for those that are not wanted. */
marey_status marey_conv3d_backward(const marey_array* grad, const marey_array* x,
                                   const marey_array* weight, const marey_conv3d_options* options,
                                   const marey_array* grad_x, const marey_array* grad_weight,
                                   const marey_array* grad_bias);

/* ---- recurrent layers --------------------------------------------------------------------------
 */

/* MAREY_GRU_AFTER is torch's, MAREY_GRU_BEFORE the published one. */
typedef enum {
  MAREY_LSTM = 0,
  MAREY_GRU_AFTER = 1,
  MAREY_GRU_BEFORE = 2,
  MAREY_RNN_TANH = 3,
  MAREY_RNN_RELU = 4
} marey_cell;

typedef struct marey_recurrent marey_recurrent;

/* weight_ih (gates * H, I), weight_hh (gates * H, H), biases (gates * H,) or null: as torch has
 * them; copied. */
marey_status marey_recurrent_create(marey_cell cell, const marey_array* weight_ih,
                                    const marey_array* weight_hh, const marey_array* bias_ih,
                                    const marey_array* bias_hh, marey_recurrent** layer);

/* x (T, N, I), y (T, N, H); h0, c0 (N, H) or null: zeros; h_n, c_n (N, H), c_n for an LSTM only
 * (else null), float32 for bfloat16. lengths: N numbers, or null: all T. */
marey_status marey_recurrent_run(const marey_recurrent* layer, const marey_array* x,
                                 const marey_array* h0, const marey_array* c0,
                                 const int64_t* lengths, int32_t reverse, const marey_array* y,
                                 const marey_array* h_n, const marey_array* c_n);
void marey_recurrent_destroy(marey_recurrent* layer);

/* C-ordered arrays of the shapes of what they are gradients of: x and h0 of its type, all others
 * float32 for bfloat16. c0 for an LSTM only (else null). */
typedef struct {
  const marey_array* x;
  const marey_array* weight_ih;
  const marey_array* weight_hh;
  const marey_array* bias_ih;
  const marey_array* bias_hh;
  const marey_array* h0;
  const marey_array* c0;
} marey_recurrent_gradients;

/* Back-propagation through time from the gradients of y, h_n and c_n, each of which may be null
 * (zeros). The way there is gone once more, and kept meanwhile. */
marey_status marey_recurrent_backward(marey_cell cell, const marey_array* weight_ih,
                                      const marey_array* weight_hh, const marey_array* bias_ih,
                                      const marey_array* bias_hh, const marey_array* x,
                                      const marey_array* h0, const marey_array* c0,
                                      const int64_t* lengths, int32_t reverse,
                                      const marey_array* grad_y, const marey_array* grad_h,
                                      const marey_array* grad_c,
                                      const marey_recurrent_gradients* gradients);

#ifdef __cplusplus
}
#endif

#endif /* MAREY_MAREY_H */
