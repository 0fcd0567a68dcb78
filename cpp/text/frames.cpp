#include "text/frames.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <mutex>
#include <stdexcept>

namespace lk::text {
namespace {

constexpr size_t kLongest = 32;  // characters of a number, of which the shortest form has at most 24

void append(std::string& out, double number) {
    if (!std::isfinite(number)) {
        out += "null";
        return;
    }
    char digits[kLongest];
    const char* end = std::to_chars(digits, digits + kLongest, number).ptr;
    const std::string_view text(digits, size_t(end - digits));
    out += text;
    if (text.find_first_not_of("-0123456789") == std::string_view::npos) out += ".0";
}

}  // namespace

const Frames::Place& Frames::place(int32_t id) const {
    if (id < 0 || id >= n_tokens())
        throw std::out_of_range("token " + std::to_string(id) + " is outside the vocabulary of " +
                                std::to_string(n_tokens()));
    return places_[size_t(id)];
}

std::vector<int32_t> Frames::missing(std::span<const int32_t> ids) const {
    const std::shared_lock lock(mutex_);
    std::vector<int32_t> found;
    for (int32_t id : ids)
        if (place(id).before == 0) found.push_back(id);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

void Frames::set(int32_t id, std::string_view before, std::string_view after) {
    if (before.empty()) throw std::invalid_argument("a frame begins with some text");
    const std::unique_lock lock(mutex_);
    if (place(id).before != 0) return;
    places_[size_t(id)] = {bytes_.size(), uint32_t(before.size()), uint32_t(after.size())};
    bytes_ += before;
    bytes_ += after;
}

std::optional<std::string> Frames::write(std::span<const int32_t> ids, std::span<const double> numbers) const {
    if (ids.size() != numbers.size()) throw std::invalid_argument("as many numbers as ids are needed");
    const std::shared_lock lock(mutex_);
    size_t size = 0;
    for (int32_t id : ids) {
        const Place& at = place(id);
        if (at.before == 0) return std::nullopt;
        size += at.before + at.after + kLongest;
    }
    std::string out;
    out.reserve(size);
    for (size_t i = 0; i < ids.size(); ++i) {
        const Place& at = places_[size_t(ids[i])];
        if (i != 0) out += ',';
        out.append(bytes_, at.start, at.before);
        append(out, numbers[i]);
        out.append(bytes_, at.start + at.before, at.after);
    }
    return out;
}

}  // namespace lk::text
