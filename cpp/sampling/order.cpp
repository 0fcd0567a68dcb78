#include "sampling/order.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>

#include "sampling/work.h"

namespace lk::sampling {
namespace {

// Comparing takes a logarithm of the length for each candidate, and most of its branches are guessed wrong. From this
// length on three passes over the digits of a key are quicker.
constexpr size_t kWorthDigits = 512;
constexpr int kDigits = 3, kDigitBits = 11;
constexpr uint32_t kDigit = (uint32_t(1) << kDigitBits) - 1;
// The k likeliest are looked for with a heap where it has fewer than one in so many.
constexpr size_t kFew = 32;

using Counts = std::array<uint32_t, kDigit + 1>;

// The bits of a number if it is negative, else the others but for the sign: without a branch, of which half would be
// guessed wrong. Does the reverse too.
uint32_t falling(uint32_t bits) {
    return bits ^ (~uint32_t(int32_t(bits) >> 31) & 0x7fffffffu);
}

// Rises where the logit falls. Both zeros are as likely, so they have one key.
uint32_t key(float logit) {
    return falling(std::bit_cast<uint32_t>(logit + 0.0f));
}

uint32_t digit(const Candidate& c, int i) {
    return (key(c.logit) >> (i * kDigitBits)) & kDigit;
}

uint32_t first_digit(float logit) {
    return key(logit) >> ((kDigits - 1) * kDigitBits);
}

void check_numbers(const std::vector<Candidate>& list) {
    bool nan = false;
    for (const Candidate& c : list) nan |= c.logit != c.logit;
    if (nan) refuse_nan();
}

// Whether ids rise, or else ties would not be in order after passes that leave them as they are.
bool ids_rise(const std::vector<Candidate>& list) {
    return std::is_sorted(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
}

// Orders runs of ties, in a list in which only these are not in order.
void sort_ties(std::vector<Candidate>& list) {
    for (auto run = list.begin(); run != list.end();) {
        const auto end = std::find_if(run, list.end(), [&](const Candidate& c) { return c.logit != run->logit; });
        std::sort(run, end, likelier);
        run = end;
    }
}

// Digits from the last to the first, each in a pass that keeps the order of equal ones (LSD radix sort).
void sort_digits(std::vector<Candidate>& list) {
    std::array<Counts, kDigits> counts{};
    for (const Candidate& c : list)
        for (int i = 0; i < kDigits; ++i) ++counts[size_t(i)][digit(c, i)];
    std::vector<Candidate> other(list.size());
    for (int i = 0; i < kDigits; ++i) {
        Counts& places = counts[size_t(i)];
        if (places[digit(list[0], i)] == list.size()) continue;  // all have the same
        uint32_t before = 0;
        for (uint32_t& place : places) before += std::exchange(place, before);
        Candidate* to = other.data();
        for (const Candidate& c : list) to[places[digit(c, i)]++] = c;
        list.swap(other);
    }
}

// The last of the first digits that the k likeliest have, by how many have each.
uint32_t last_digit(const Counts& counts, size_t k) {
    uint32_t last = 0;
    for (size_t n = counts[0]; n < k; n += counts[last]) ++last;
    return last;
}

// Drops what by the first digit alone is not among the k likeliest.
void drop_unlikely(std::vector<Candidate>& list, size_t k) {
    Counts counts{};
    for (const Candidate& c : list) ++counts[first_digit(c.logit)];
    const uint32_t last = last_digit(counts, k);
    std::erase_if(list, [last](const Candidate& c) { return first_digit(c.logit) > last; });
}

}  // namespace

void sort_likeliest(std::vector<Candidate>& list) {
    begin_or_postpone(list.size(), kSort);
    check_numbers(list);
    if (list.size() < kWorthDigits) {
        std::sort(list.begin(), list.end(), likelier);
        return;
    }
    const bool rising = ids_rise(list);
    sort_digits(list);
    if (!rising) sort_ties(list);
}

float reached_by(const float* x, int32_t n, size_t k) {
    Counts counts{};
    for (int32_t i = 0; i < n; ++i) ++counts[first_digit(x[i])];
    const uint32_t lowest = ((last_digit(counts, k) + 1) << ((kDigits - 1) * kDigitBits)) - 1;
    return lowest > key(-INFINITY) ? -INFINITY : std::bit_cast<float>(falling(lowest));
}

void keep_likeliest(std::vector<Candidate>& list, size_t k) {
    k = std::min(k, list.size());
    if (k == 0) {
        list.clear();
        return;
    }
    count(list.size(), kScan);
    check_numbers(list);
    if (k < list.size() && list.size() >= kWorthDigits) drop_unlikely(list, k);
    if (k < list.size() / kFew) {
        std::partial_sort(list.begin(), list.begin() + ptrdiff_t(k), list.end(), likelier);
    } else {
        sort_likeliest(list);
    }
    list.resize(k);
}

}  // namespace lk::sampling
