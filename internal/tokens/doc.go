// Package tokens says what a request will cost before it is sent, and learns from what it did cost.
package tokens
