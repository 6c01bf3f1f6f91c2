//go:build race

package http1

// raceDetector makes sync.Pool forget at random, so allocations say nothing.
const raceDetector = true
