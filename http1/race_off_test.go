//go:build !race && stress

package http1

const raceDetector = false
