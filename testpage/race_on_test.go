//go:build race && stress

package testpage

// raceDetector makes sync.Pool forget at random, so allocations say nothing.
const raceDetector = true
