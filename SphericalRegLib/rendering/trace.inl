// One packet of neighbouring rays through the packed volume: the body of the native function in kernel.py, which defines WIDTH (rays in a packet),
// COLUMNS (packet's width in pixels) and JACOBIAN (0 or 1) before it. On the CPU a packet is a vector of Clang's vector extension, one lane per ray;
// with WIDTH 1, as on CUDA, the same text is plain scalar code. Rays and the chain rule are described in kernel.py, the layout in layout.py.
{
#ifdef __clang__
    #pragma clang fp contract(fast)  // fused multiply-add, as NVRTC has it
#endif
#if WIDTH == 1
    typedef float F;
    typedef int I;
    #define TO_INT(x) ((int)(x))
    #define TO_FLOAT(x) ((float)(x))
    #define LANE(x, lane) (x)
    #define MIN(a, b) ((a) < (b) ? (a) : (b))
    #define MAX(a, b) ((a) > (b) ? (a) : (b))
    #define SQRT(x) wp::sqrt(x)
    #define ALL_EQUAL(a, b) ((a) == (b))
#else
    typedef float F __attribute__((vector_size(4 * WIDTH)));
    typedef int I __attribute__((vector_size(4 * WIDTH)));
    typedef unsigned U __attribute__((vector_size(4 * WIDTH)));
    typedef float Quad __attribute__((vector_size(16)));
    #define TO_INT(x) __builtin_convertvector(x, I)
    #define TO_FLOAT(x) __builtin_convertvector(x, F)
    #define LANE(x, lane) ((x)[lane])
    #define MIN(a, b) __builtin_elementwise_min(a, b)
    #define MAX(a, b) __builtin_elementwise_max(a, b)
    #define SQRT(x) __builtin_elementwise_sqrt(x)
    #define ALL_EQUAL(a, b) (!__builtin_reduce_or((a) != (b)))
#endif
    const F zero = {};
    const auto& R = camera_from_world.data;
    const auto& A = scene.voxel_from_world.data;
    const float step = scene.step;

    // Unit directions in the camera.
    F x = zero + (float)column, y = zero + (float)row;
#if WIDTH > 1
    for (int lane = 0; lane < WIDTH; ++lane) {
        x[lane] += lane % COLUMNS;
        y[lane] += lane / COLUMNS;
    }
#endif
    x = (x - scene.principal_point[0]) * scene.spacing[0];
    y = (y - scene.principal_point[1]) * scene.spacing[1];
    const F length = SQRT(x * x + y * y + scene.sdd * scene.sdd);
    x /= length;
    y /= length;
    const F z = scene.sdd / length;

    // The packet's reference sample: the one nearest to the CT's centre. Positions and moments count from it and stay small enough for float32.
    // Farther off than float32 can count by ones, no ray meets the CT whatever the reference; of a pose that is no number there is none.
    const float nearest = (LANE(x, 0) * centre[0] + LANE(y, 0) * centre[1] + LANE(z, 0) * centre[2]) / step;
    const int reference = -8388608.0f < nearest && nearest < 8388608.0f ? (int)nearest : 0;
    const float depth = ((float)reference + 0.5f) * step;
    const F cx = x * depth - centre[0], cy = y * depth - centre[1], cz = z * depth - centre[2];

    // Direction u and reference point o, relative to the CT's centre, in world axes; then first sample p and step d in voxel indices.
    const F u0 = R[0][0] * x + R[1][0] * y + R[2][0] * z, o0 = R[0][0] * cx + R[1][0] * cy + R[2][0] * cz;
    const F u1 = R[0][1] * x + R[1][1] * y + R[2][1] * z, o1 = R[0][1] * cx + R[1][1] * cy + R[2][1] * cz;
    const F u2 = R[0][2] * x + R[1][2] * y + R[2][2] * z, o2 = R[0][2] * cx + R[1][2] * cy + R[2][2] * cz;
    const F p0 = A[0][0] * o0 + A[0][1] * o1 + A[0][2] * o2 + scene.centre_voxel[0], d0 = (A[0][0] * u0 + A[0][1] * u1 + A[0][2] * u2) * step;
    const F p1 = A[1][0] * o0 + A[1][1] * o1 + A[1][2] * o2 + scene.centre_voxel[1], d1 = (A[1][0] * u0 + A[1][1] * u1 + A[1][2] * u2) * step;
    const F p2 = A[2][0] * o0 + A[2][1] * o1 + A[2][2] * o2 + scene.centre_voxel[2], d2 = (A[2][0] * u0 + A[2][1] * u1 + A[2][2] * u2) * step;

    // Sample indices n, counted from the reference, between source and detector and inside the occupied box: [first, last] for each ray.
    F first = zero - (float)reference, last = length / step - ((float)reference + 0.5f);
    auto clip = [&](const F& p, const F& d, float upper) {
        const F slope = ((d < 1e-9f) & (d > -1e-9f)) ? zero + 1e-9f : d;
        const F a = -p / slope, b = (upper - p) / slope;
        first = MAX(first, MIN(a, b));
        last = MIN(last, MAX(a, b));
    };
    clip(p0, d0, scene.upper[0]);
    clip(p1, d1, scene.upper[1]);
    clip(p2, d2, scene.upper[2]);
    float start = 1.0f, stop = 0.0f;
    for (int lane = 0; lane < WIDTH; ++lane) {
        if (LANE(first, lane) > LANE(last, lane)) continue;
        if (start > stop) {
            start = LANE(first, lane);
            stop = LANE(last, lane);
        }
        start = MIN(start, LANE(first, lane));
        stop = MAX(stop, LANE(last, lane));
    }
    start = wp::ceil(start);

    // A pose that is not finite has no samples, and an image that is no number: the loop below would never end.
    const F broken = (p0 - p0) + (p1 - p1) + (p2 - p2) + (d0 - d0) + (d1 - d1) + (d2 - d2);
    if (!ALL_EQUAL(broken, zero)) start = 1.0f, stop = 0.0f;

    // For skipping air: the packet's middle, and how far, in voxels, its rays ever are from it.
    auto middle = [](const F& v) { return 0.5f * (LANE(v, 0) + LANE(v, WIDTH - 1)); };
    const float m0 = middle(p0), m1 = middle(p1), m2 = middle(p2), e0 = middle(d0), e1 = middle(d1), e2 = middle(d2);
    F away = zero;
    auto stray = [&](const F& p, const F& d, float m, float e) {
        const F a = (p - m) + start * (d - e), b = (p - m) + stop * (d - e);
        away = MAX(away, MAX(MAX(a, -a), MAX(b, -b)));
    };
    stray(p0, d0, m0, e0);
    stray(p1, d1, m1, e1);
    stray(p2, d2, m2, e2);
    float spread = 0.0f;
    for (int lane = 0; lane < WIDTH; ++lane) spread = MAX(spread, LANE(away, lane));
    const float speed = MAX(MAX(MAX(e0, -e0), MAX(e1, -e1)), MAX(e2, -e2));
    auto free_steps = [&](float n) {  // so many steps from sample n see air alone
        const int i = (int)(m0 + n * e0) >> 2, j = (int)(m1 + n * e1) >> 2, k = (int)(m2 + n * e2) >> 2;
        const int ci = MAX(0, MIN(i, scene.blocks_i - 1)), cj = MAX(0, MIN(j, scene.blocks_j - 1)), ck = MAX(0, MIN(k, scene.blocks_k - 1));
        return ((float)scene.free_radius.data[(ci * scene.blocks_j + cj) * scene.blocks_k + ck] - spread) / speed;
    };

    const wp::uint16* cells = scene.cells.data;
    const int stride_i = scene.stride_i - 4 * 6, stride_k = scene.stride_k - 4;  // of a brick of 4 cells, less what its cells are apart already

    // Sample n: the word of its cell's first corner, and where in the cell it lies. Outside the ray's interval: the first cell, which is air.
    auto locate = [&](float n, F& a, F& b, F& c) -> I {
        const F q0 = p0 + n * d0, q1 = p1 + n * d1, q2 = p2 + n * d2;
        const I i = TO_INT(q0), j = TO_INT(q1), k = TO_INT(q2);
        a = q0 - TO_FLOAT(i), b = q1 - TO_FLOAT(j), c = q2 - TO_FLOAT(k);
        const I at = (k >> 2) * stride_k + (i >> 2) * stride_i + (j << 5) + i * 6 + k;
#if WIDTH == 1
        return first <= n && n <= last ? at : 0;
#else
        return at & ((first <= n) & (n <= last));
#endif
    };

    // The corners (i, k), (i, k + 1), (i + 1, k), (i + 1, k + 1) of each ray's cell on its near (line 0) or far (line 1) side along j.
    auto corners = [&](const unsigned* at, int line, F& v00, F& v01, F& v10, F& v11) {
#if WIDTH == 1
        const wp::uint16* v = cells + at[0] + 32 * line;
        v00 = v[0], v01 = v[1], v10 = v[6], v11 = v[7];
#else
        // They are the first and last two of eight numbers: load those 16 bytes for each ray and transpose, two corners at a time.
        Quad r[WIDTH];
        for (int lane = 0; lane < WIDTH; ++lane) __builtin_memcpy(&r[lane], cells + (at[lane] + 32ull * line), 16);
        const F ab = __builtin_shufflevector(__builtin_shufflevector(r[0], r[4], 0, 1, 2, 3, 4, 5, 6, 7),
                                             __builtin_shufflevector(r[1], r[5], 0, 1, 2, 3, 4, 5, 6, 7), 0, 3, 8, 11, 4, 7, 12, 15);
        const F cd = __builtin_shufflevector(__builtin_shufflevector(r[2], r[6], 0, 1, 2, 3, 4, 5, 6, 7),
                                             __builtin_shufflevector(r[3], r[7], 0, 1, 2, 3, 4, 5, 6, 7), 0, 3, 8, 11, 4, 7, 12, 15);
        const U low = (U)__builtin_shufflevector(ab, cd, 0, 2, 8, 10, 4, 6, 12, 14);
        const U high = (U)__builtin_shufflevector(ab, cd, 1, 3, 9, 11, 5, 7, 13, 15);
        v00 = TO_FLOAT((I)(low & 0xffffu)), v01 = TO_FLOAT((I)(low >> 16));
        v10 = TO_FLOAT((I)(high & 0xffffu)), v11 = TO_FLOAT((I)(high >> 16));
#endif
    };

    F value = zero;
#if JACOBIAN
    F g0 = zero, g1 = zero, g2 = zero, h0 = zero, h1 = zero, h2 = zero;
#endif
    // Trilinear interpolation, k first, then j, then i; the differences on the way are the gradient.
    auto add = [&](float n, const unsigned* at, const F& a, const F& b, const F& c) {
        F v000, v001, v010, v011, v100, v101, v110, v111;  // i, j, k
        corners(at, 0, v000, v001, v100, v101);
        corners(at, 1, v010, v011, v110, v111);
        const F k00 = v001 - v000, k01 = v011 - v010, k10 = v101 - v100, k11 = v111 - v110;
        const F s00 = v000 + c * k00, s01 = v010 + c * k01, s10 = v100 + c * k10, s11 = v110 + c * k11;
        const F j0 = s01 - s00, j1 = s11 - s10;
        const F t0 = s00 + b * j0, t1 = s10 + b * j1;
        const F by_i = t1 - t0;
        value += t0 + a * by_i;
#if JACOBIAN
        const F by_j = j0 + a * (j1 - j0);
        const F l0 = k00 + b * (k01 - k00), l1 = k10 + b * (k11 - k10);
        const F by_k = l0 + a * (l1 - l0);
        g0 += by_i, g1 += by_j, g2 += by_k;
        h0 += n * by_i, h1 += n * by_j, h2 += n * by_k;
#endif
    };

    const int BLOCK = 16;  // samples between two looks for air
    bool quiet = true;     // no attenuation in the last block
    for (float n = start; n <= stop;) {
        if (quiet) {
            const int steps = (int)free_steps(n);
            if (steps > 0) {
                n += (float)steps;
                continue;
            }
        }
        const F before = value;
        const int left = (int)(stop - n) + 1, count = MIN(left, BLOCK);
#if WIDTH == 1
        for (int m = 0; m < count; ++m, n += 1.0f) {
            F a, b, c;
            const unsigned at = (unsigned)locate(n, a, b, c);
            add(n, &at, a, b, c);
        }
#else
        // Addresses first: read back as scalars they cost less than taken out of a vector, and neither loads nor prefetches wait for arithmetic.
        alignas(F) unsigned at[BLOCK][WIDTH];
        F a[BLOCK], b[BLOCK], c[BLOCK];
        #pragma clang loop unroll(disable)
        for (int m = 0; m < count; ++m) {
            const I words = locate(n + (float)m, a[m], b[m], c[m]);
            __builtin_memcpy(at[m], &words, sizeof(words));
        }
        #pragma clang loop unroll(disable)
        for (int m = 0; m < count; ++m) {
            __builtin_prefetch(cells + at[m][0]);
            __builtin_prefetch(cells + at[m][WIDTH - 1]);
        }
        #pragma clang loop unroll(disable)
        for (int m = 0; m < count; ++m, n += 1.0f) add(n, at[m], a[m], b[m], c[m]);
#endif
        quiet = ALL_EQUAL(value, before);
    }

    const float scale = scene.scale * step;
    value = value * scale + broken;
#if JACOBIAN
    // Gradient and moment in world axes; a step (omega, v) moves a sample at y = o + n step u by y x omega - v.
    const float scale_h = scale * step;
    F G0 = (A[0][0] * g0 + A[1][0] * g1 + A[2][0] * g2) * scale, H0 = (A[0][0] * h0 + A[1][0] * h1 + A[2][0] * h2) * scale_h;
    F G1 = (A[0][1] * g0 + A[1][1] * g1 + A[2][1] * g2) * scale, H1 = (A[0][1] * h0 + A[1][1] * h1 + A[2][1] * h2) * scale_h;
    F G2 = (A[0][2] * g0 + A[1][2] * g1 + A[2][2] * g2) * scale, H2 = (A[0][2] * h0 + A[1][2] * h1 + A[2][2] * h2) * scale_h;
    // The integral of grad mu . u along a ray is zero, its sum over samples is noise (kernel.py): only the part across the ray counts.
    const F along = G0 * u0 + G1 * u1 + G2 * u2 + broken;
    G0 -= along * u0, G1 -= along * u1, G2 -= along * u2;  // of H that part has no share: it enters as H x u
    const F w0 = G1 * o2 - G2 * o1 + (H1 * u2 - H2 * u1);
    const F w1 = G2 * o0 - G0 * o2 + (H2 * u0 - H0 * u2);
    const F w2 = G0 * o1 - G1 * o0 + (H0 * u1 - H1 * u0);
#endif
    for (int lane = 0; lane < WIDTH; ++lane) {
        const int r = row + lane / COLUMNS, c = column + lane % COLUMNS;
        if (r >= scene.rows || c >= scene.columns) continue;
        const wp::int64 ray = first_ray + r * scene.columns + c;
        image.data[ray] = LANE(value, lane);
#if JACOBIAN
        float* out = jacobian.data + 6 * ray;
        out[0] = LANE(w0, lane), out[1] = LANE(w1, lane), out[2] = LANE(w2, lane);
        out[3] = -LANE(G0, lane), out[4] = -LANE(G1, lane), out[5] = -LANE(G2, lane);
#endif
    }
}
#undef TO_INT
#undef TO_FLOAT
#undef LANE
#undef MIN
#undef MAX
#undef SQRT
#undef ALL_EQUAL
