// Mutates GGUF files and parses each result: built with sanitizers, it ends with an error on any fault.
//
//   gguf_harness COUNT SEED FILE...
//
// It counts what was accepted and refused, and checks that all memory held while parsing stays below the size of the
// file plus 64 KiB for records, whatever counts the file claims. Each file lies in memory of exactly its size, so that
// reading one byte past its end is seen.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/quants.h"

namespace {
size_t allocation_limit = SIZE_MAX;
size_t held = 0;                                       // bytes allocated by operator new and not yet freed
constexpr size_t kPrefix = alignof(std::max_align_t);  // before each allocation: its size
}  // namespace

void* operator new(size_t n) {
    if (n > allocation_limit || held > allocation_limit - n) {
        std::fprintf(stderr, "%zu bytes more than the %zu held, the limit is %zu\n", n, held, allocation_limit);
        std::abort();
    }
    auto* p = static_cast<uint8_t*>(std::malloc(n + kPrefix));
    if (p == nullptr) throw std::bad_alloc();
    std::memcpy(p, &n, sizeof n);
    held += n;
    return p + kPrefix;
}
void operator delete(void* p) noexcept {
    if (p == nullptr) return;
    auto* start = static_cast<uint8_t*>(p) - kPrefix;
    size_t n;
    std::memcpy(&n, start, sizeof n);
    held -= n;
    std::free(start);
}
void operator delete(void* p, size_t) noexcept {
    operator delete(p);
}

namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

void put(Bytes& data, size_t at, uint64_t value, int n) {
    for (int i = 0; i < n && at + size_t(i) < data.size(); ++i) data[at + size_t(i)] = uint8_t(value >> (8 * i));
}

// Where counts, lengths, types and offsets lie: mutations there go deeper than random ones.
std::vector<size_t> interesting(const Bytes& data) {
    std::vector<size_t> places{4, 8, 16};
    try {
        const auto header = lk::formats::parse_gguf(data.data(), data.size());
        const auto* base = reinterpret_cast<const char*>(data.data());
        for (const auto& r : header.metadata) {
            const size_t key = size_t(r.key.data() - base);
            places.insert(places.end(), {key - 8, key, key + r.key.size(), key + r.key.size() + 4,
                                         key + r.key.size() + 8, size_t(r.offset)});
        }
        for (const auto& t : header.tensors) {
            const size_t name = size_t(t.name.data() - base), after = name + t.name.size();
            places.insert(places.end(),
                          {name - 8, after, after + 4, after + 12, after + 4 + 8 * t.n_dim, after + 8 + 8 * t.n_dim});
        }
    } catch (const lk::formats::ParseError&) {
    }
    return places;
}

uint64_t nasty(Random& random) {
    static const uint64_t values[] = {0,          1,          2,          3,          8,          9,
                                      12,         13,         31,         32,         255,        256,
                                      65535,      65536,      0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1ull << 32,
                                      1ull << 40, 1ull << 61, 1ull << 62, 1ull << 63, UINT64_MAX, UINT64_MAX - 7,
                                      INT64_MAX};
    return random() % 4 ? values[random() % std::size(values)] : random();
}

Bytes mutate(const Bytes& seed, const std::vector<size_t>& places, Random& random) {
    Bytes data = seed;
    const int n = 1 + int(random() % 4);
    for (int i = 0; i < n; ++i) {
        const size_t at = random() % 3 ? places[random() % places.size()] : random() % data.size();
        switch (random() % 6) {
            case 0:
                put(data, at, nasty(random), 8);
                break;
            case 1:
                put(data, at, nasty(random), 4);
                break;
            case 2:
                if (at < data.size()) data[at] = uint8_t(random());
                break;
            case 3:
                data.resize(1 + random() % data.size());
                break;
            case 4:
                if (at < data.size()) data.insert(data.begin() + ptrdiff_t(at), random() % 16, uint8_t(random()));
                break;
            default:
                if (at < data.size())
                    data.erase(data.begin() + ptrdiff_t(at),
                               data.begin() + ptrdiff_t(std::min(data.size(), at + random() % 16)));
                break;
        }
        if (data.empty()) data.push_back(0);
    }
    return data;
}

// Parse, and touch every byte that the result says is there.
bool accept(const uint8_t* data, size_t size) {
    try {
        const auto header = lk::formats::parse_gguf(data, size);
        volatile uint8_t sum = 0;
        for (const auto& r : header.metadata) {
            for (char c : r.key) sum = uint8_t(sum + uint8_t(c));
            for (size_t i = 0; i + 1 < r.starts.size(); ++i) {
                const size_t n = r.starts[i + 1] - r.starts[i] - header.length_bytes;
                for (size_t j = 0; j < n; ++j) sum = uint8_t(sum + data[r.offset + r.starts[i] + j]);
            }
        }
        for (const auto& t : header.tensors) {
            sum = uint8_t(sum + data[t.offset] + data[t.offset + t.n_bytes - 1]);
            if (const auto* traits = lk::formats::traits(int(t.type)); traits != nullptr && traits->readable) {
                std::vector<float> values(size_t(traits->block_size));
                lk::formats::dequantize_row(int(t.type), data + t.offset, values.data(), traits->block_size);
            }
        }
        return true;
    } catch (const lk::formats::ParseError&) {
        return false;
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) return std::fprintf(stderr, "usage: gguf_harness COUNT SEED FILE...\n"), 2;
    const long count = std::atol(argv[1]);
    Random random(uint64_t(std::atol(argv[2])));
    std::vector<Bytes> seeds;
    std::vector<std::vector<size_t>> places;
    for (int i = 3; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        if (seeds.back().empty()) return std::fprintf(stderr, "%s is empty\n", argv[i]), 2;
        places.push_back(interesting(seeds.back()));
    }
    long accepted = 0;
    double slowest = 0;
    for (long i = 0; i < count; ++i) {
        const size_t which = random() % seeds.size();
        const Bytes data = mutate(seeds[which], places[which], random);
        auto* exact = static_cast<uint8_t*>(std::malloc(data.size()));
        if (exact == nullptr) return std::fprintf(stderr, "no memory\n"), 2;
        std::memcpy(exact, data.data(), data.size());
        allocation_limit = held + data.size() + (64 << 10);
        const auto start = std::chrono::steady_clock::now();
        accepted += accept(exact, data.size());
        slowest = std::max(slowest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        allocation_limit = SIZE_MAX;
        std::free(exact);
    }
    std::printf("%ld files, %ld accepted, %ld refused, slowest %.3f s\n", count, accepted, count - accepted, slowest);
    return slowest > 1 ? 1 : 0;
}
