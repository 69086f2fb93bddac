/* The entry points of marey.h, from C. */
#include <marey/marey.h>
#include <math.h>
#include <stdio.h>

static int failed = 0;

static void check(int good, const char* what) {
  if (!good) {
    printf("failed: %s (%s)\n", what, marey_last_error());
    failed = 1;
  }
}

int main(void) {
  double steps[8] = {0, 0, 1, 0, 0, 0, 0, 0}, y[8], state[2] = {0, 0};
  const int64_t shape[1] = {8}, half[1] = {4}, state_shape[2] = {1, 2};
  const double taps[3] = {1, 2, 3}, sos[6] = {0.5, 0, 0, 1, -0.5, 0};
  const marey_array x = marey_array_of(steps, MAREY_FLOAT64, 1, shape);
  const marey_array out = marey_array_of(y, MAREY_FLOAT64, 1, shape);
  const marey_array z = marey_array_of(state, MAREY_FLOAT64, 2, state_shape);

  check(marey_convolve(&x, 0, taps, 3, MAREY_REFLECT, 0, 0, &out) == MAREY_OK, "convolve");
  check(y[1] == 1 && y[2] == 2 && y[3] == 3 && y[4] == 0, "the taps of an impulse");

  check(marey_sosfilt(sos, 1, &x, 0, &z, &z, &out) == MAREY_OK, "sosfilt");
  check(y[2] == 0.5 && y[3] == 0.25 && fabs(state[0] - 0.5 * y[7]) < 1e-15,
        "a decay and its state");

  check(marey_median_filter(&x, 0, 3, MAREY_REFLECT, 0, 0, &out) == MAREY_OK, "median_filter");
  check(y[2] == 0, "no spike is left");

  check(marey_ideal_bandpass(&x, 0, 0, 4, &out) == MAREY_OK, "ideal_bandpass");
  check(fabs(y[2] - 1) < 1e-12, "all of the band");

  float q[2 * 4] = {1, 0, 0, 0, 0, 1, 0, 0}, attended[2 * 4];
  const int64_t heads[3] = {1, 2, 4};
  const marey_array sequence = marey_array_of(q, MAREY_FLOAT32, 3, heads);
  const marey_array result = marey_array_of(attended, MAREY_FLOAT32, 3, heads);
  check(marey_attention(&sequence, &sequence, &sequence, 0, 0, 0, &result, 0) == MAREY_OK,
        "attention");
  check(fabsf(attended[0] - 1 / (1 + expf(-0.5f))) < 1e-6f, "softmax of two scores");

  double clip[2 * 3] = {1, 2, 3, 4, 5, 6}, summed[2 * 2], one[2] = {1, 1};
  const int64_t clip_shape[5] = {1, 1, 2, 1, 3}, kernel[5] = {1, 1, 1, 1, 2};
  const int64_t summed_shape[5] = {1, 1, 2, 1, 2};
  const marey_array frames = marey_array_of(clip, MAREY_FLOAT64, 5, clip_shape);
  const marey_array weight = marey_array_of(one, MAREY_FLOAT64, 5, kernel);
  const marey_array sums = marey_array_of(summed, MAREY_FLOAT64, 5, summed_shape);
  marey_conv3d* conv = 0;
  check(marey_conv3d_create(&weight, 0, 0, &conv) == MAREY_OK, "conv3d_create");
  check(marey_conv3d_run(conv, &frames, &sums) == MAREY_OK, "conv3d_run");
  check(summed[0] == 3 && summed[3] == 11, "sums of neighbours");
  check(marey_conv3d_run(conv, &frames, &frames) == MAREY_VALUE_ERROR, "a result of another size");
  marey_conv3d_destroy(conv);

  double ih[1] = {1}, hh[1] = {0.5}, series[3] = {1, 1, 1}, hidden[3], last[1];
  const int64_t unit[2] = {1, 1}, series_shape[3] = {3, 1, 1};
  const marey_array w = marey_array_of(ih, MAREY_FLOAT64, 2, unit);
  const marey_array u = marey_array_of(hh, MAREY_FLOAT64, 2, unit);
  const marey_array in = marey_array_of(series, MAREY_FLOAT64, 3, series_shape);
  const marey_array all = marey_array_of(hidden, MAREY_FLOAT64, 3, series_shape);
  const marey_array end = marey_array_of(last, MAREY_FLOAT64, 2, unit);
  marey_recurrent* layer = 0;
  check(marey_recurrent_create(MAREY_RNN_RELU, &w, &u, 0, 0, &layer) == MAREY_OK, "recurrent");
  check(marey_recurrent_run(layer, &in, 0, 0, 0, 0, &all, &end, 0) == MAREY_OK, "recurrent_run");
  check(hidden[1] == 1.5 && last[0] == 1.75, "three steps");
  marey_recurrent_destroy(layer);

  const marey_array wrong = marey_array_of(y, MAREY_FLOAT64, 1, half);
  check(marey_convolve(&x, 0, taps, 3, MAREY_REFLECT, 0, 0, &wrong) == MAREY_VALUE_ERROR,
        "a shape");
  check(marey_set_isa("abacus") == MAREY_VALUE_ERROR, "an instruction set");
  printf("%s\n%s\n", marey_isa(), marey_last_error());
  return failed;
}
