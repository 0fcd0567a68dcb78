// What stands around a number for each token, such as `{"id":5,"logprob":` and `,"token":" a"}`: the JSON of a thousand
// likeliest tokens is then copied together, by any number of threads at once.
#pragma once

#include <cstdint>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lk::text {

class Frames {
  public:
    explicit Frames(int32_t n_tokens) : places_(size_t(n_tokens)) {}

    int32_t n_tokens() const { return int32_t(places_.size()); }
    // Those of `ids` that are not set, each once. Ids are checked by all three: std::out_of_range.
    std::vector<int32_t> missing(std::span<const int32_t> ids) const;
    // The first text that is set for a token stays.
    void set(int32_t id, std::string_view before, std::string_view after);
    // Each number in the frame of its token, commas between them; nothing where a frame is not set. Numbers are written
    // with as few digits as tell them from others, whole ones end in ".0", and what JSON has no number for is null.
    // (With an exponent where that is shorter, so 0.0001 is 1e-04.)
    std::optional<std::string> write(std::span<const int32_t> ids, std::span<const double> numbers) const;

  private:
    struct Place {
        uint64_t start = 0;
        uint32_t before = 0, after = 0;
    };
    const Place& place(int32_t id) const;

    mutable std::shared_mutex mutex_;
    std::string bytes_;
    std::vector<Place> places_;
};

}  // namespace lk::text
