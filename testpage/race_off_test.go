//go:build !race && stress

package testpage

const raceDetector = false
