// Finds how often a second a video brightens: a band-pass over all pixels, a space-time
// convolution, a count.
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
  marey::sosfiltfilt(sos, {video.data(), {frames, height, width}},
                     {video.data(), {frames, height, width}});

  const std::vector<float> mean(3 * 8 * 8, 1.0f / (3 * 8 * 8));
  marey_conv3d_options options = marey_conv3d_defaults();
  options.stride[1] = options.stride[2] = 8;
  options.before[0] = options.after[0] = 1;
  std::vector<float> patches(frames * height / 8 * width / 8);
  const marey::Conv3d conv({mean.data(), {1, 1, 3, 8, 8}}, nullptr, options);
  conv({video.data(), {1, 1, frames, height, width}},
       {patches.data(), {1, 1, frames, height / 8, width / 8}});
  int rises = 0;
  for (int t = 1; t < frames; ++t) {
    const float now = patches[t * height / 8 * width / 8];
    rises += patches[(t - 1) * height / 8 * width / 8] <= 0 && now > 0;
  }
  std::printf("%s: %d rises in 10 s\n", marey::isa().c_str(), rises);
  try {
    marey::down({video.data(), {height, width}}, {patches.data(), {height, width}});
  } catch (const marey::Error& error) {
    std::printf("%s\n", error.what());
  }
}
