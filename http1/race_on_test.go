//go:build race && stress

package http1

// raceDetector makes sync.Pool forget at random, so allocations say nothing.
const raceDetector = true
