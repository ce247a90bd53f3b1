// Package limit admits requests to a provider: weighted, fair, and within its limits.
package limit
