// Finds how often a second a video brightens: a band-pass over all pixels, a pyramid, a count.
#include <cmath>
#include <cstdio>
#include <marey/marey.hpp>
#include <vector>

int main() {
  const int frames = 300, height = 48, width = 64;
  std::vector<float> video(frames * height * width);
  for (int t = 0; t < frames; ++t) {
    const float level = 0.5f + 0.01f * std::cos(2 * 3.14159265f * 1.2f * t / 30);
    for (int k = 0; k < height * width; ++k) video[t * height * width + k] = level + k % 7 * 0.01f;
  }
  // scipy.signal.butter(1, (0.8, 3), "bandpass", fs=30, output="sos")
  const std::vector<double> sos = {0.18998687, 0, -0.18998687, 1, -1.53397174, 0.62002627};
  const marey::Array x(video.data(), {frames, height, width});
  marey::sosfiltfilt(sos, x, x);

  std::vector<float> small(frames * height / 2 * width / 2);
  marey::down(x, marey::Array(small.data(), {frames, height / 2, width / 2}));
  int rises = 0;
  for (int t = 1; t < frames; ++t) {
    const float *now = &small[t * height / 2 * width / 2], *before = now - height / 2 * width / 2;
    rises += before[0] <= 0 && now[0] > 0;
  }
  std::printf("%s: %d rises in 10 s\n", marey::isa().c_str(), rises);
  try {
    marey::down(x, x);
  } catch (const marey::Error& error) {
    std::printf("%s\n", error.what());
  }
  return rises >= 11 && rises <= 13 ? 0 : 1;
}
