// Random numbers by counter: Philox 4x32 with 10 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011). The same key and counter always give the same number, so a sequence that resumes
// elsewhere replays its draws.
#pragma once

#include <cstdint>

namespace lk::sampling {

// Uniform in [0, 1) with 53 bits, from a 64-bit key (seed), and a counter of two parts.
inline double uniform(uint64_t seed, uint64_t choice, uint64_t position) {
    uint32_t c[4] = {uint32_t(position), uint32_t(position >> 32), uint32_t(choice), uint32_t(choice >> 32)};
    uint32_t k[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t(0xD2511F53) * c[0], b = uint64_t(0xCD9E8D57) * c[2];
        const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k[1],
                                  uint32_t(a)};
        for (int i = 0; i < 4; ++i) c[i] = next[i];
        k[0] += 0x9E3779B9;
        k[1] += 0xBB67AE85;
    }
    return double((uint64_t(c[0]) << 21) ^ (c[1] >> 11)) * 0x1p-53;
}

}  // namespace lk::sampling
