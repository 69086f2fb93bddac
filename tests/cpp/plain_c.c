/* Every entry point of marey.h that takes few lines, from C. */
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

  const marey_array wrong = marey_array_of(y, MAREY_FLOAT64, 1, half);
  check(marey_convolve(&x, 0, taps, 3, MAREY_REFLECT, 0, 0, &wrong) == MAREY_VALUE_ERROR,
        "a shape");
  check(marey_set_isa("abacus") == MAREY_VALUE_ERROR, "an instruction set");
  printf("%s\n%s\n", marey_isa(), marey_last_error());
  return failed;
}
