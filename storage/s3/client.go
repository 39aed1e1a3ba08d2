package s3

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	maxBackoff = 8 * time.Second
	// connections is how many of them are kept for the next requests.
	connections = 64
)

// connect returns the client of a bucket, and one that signs links.
func connect(ctx context.Context, c Config) (*s3.Client, *s3.PresignClient, error) {
	sdk, err := sdkConfig(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	client := func(endpoint string) *s3.Client {
		return s3.NewFromConfig(sdk, func(o *s3.Options) {
			if endpoint != "" {
				o.BaseEndpoint = aws.String(endpoint)
			}
			o.UsePathStyle = c.ForcePathStyle
			o.UseAccelerate = c.Accelerate
			o.EndpointOptions.DisableHTTPS = c.Insecure
			if c.UseDualStack {
				o.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateEnabled
			}
			if c.UseFIPSEndpoint {
				o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
			}
			if c.UserAgent != "" {
				o.APIOptions = append(o.APIOptions, middleware.AddUserAgentKey(c.UserAgent))
			}
		})
	}
	return client(c.RegionEndpoint), s3.NewPresignClient(client(cmp.Or(c.RedirectEndpoint, c.RegionEndpoint))), nil
}

// endpoint makes a URL of a host or URL, and nothing of nothing.
func (c Config) endpoint(host string) (string, error) {
	if host == "" {
		return "", nil
	}
	if !strings.Contains(host, "://") {
		scheme := "https://"
		if c.Insecure {
			scheme = "http://"
		}
		host = scheme + host
	}
	u, err := url.Parse(host)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return "", errors.New("it is no URL of the form https://host:port")
	}
	return u.String(), nil
}

// sdkConfig is how the SDK signs and sends. It looks at the environment and shared files only where no keys are given.
func sdkConfig(ctx context.Context, c Config) (aws.Config, error) {
	var sdk aws.Config
	if c.AccessKey == "" {
		var err error
		if sdk, err = config.LoadDefaultConfig(ctx); err != nil {
			return sdk, fmt.Errorf("look for credentials: %w", err)
		}
	} else {
		sdk.Credentials = aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider(c.AccessKey, c.SecretKey, c.SessionToken))
	}
	if c.Region != "" {
		sdk.Region = c.Region
	}
	if sdk.Region == "" && c.RegionEndpoint != "" {
		sdk.Region = "us-east-1" // what servers call themselves that have no regions
	}
	if sdk.Region == "" {
		return sdk, errors.New("no region: set storage.s3.region, and storage.s3.regionendpoint where the server is not AWS")
	}
	// Trailers, which the SDK would send otherwise, are what many other servers don't understand.
	sdk.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	sdk.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	sdk.HTTPClient = httpClient(c)
	sdk.Retryer = func() aws.Retryer { return retryer(c) }
	return sdk, nil
}

// retryer repeats what failed for a reason that may pass. Its limit is the number of attempts alone: a limit of the process would
// let the uploads that are under way when a server fails spend what the next ones need.
func retryer(c Config) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = c.Attempts
		o.MaxBackoff = c.backoff
		o.RateLimiter = ratelimit.None
	})
}

func httpClient(c Config) *http.Client {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.SkipVerify}, //nolint:gosec // asked for
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     90 * time.Second,
		WriteBufferSize:     slabSize,
		ReadBufferSize:      slabSize,
		DisableCompression:  true,
	}
	return &http.Client{
		Transport: impatient{next: transport, patience: c.Patience},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a signature is for one host
		},
	}
}

// unsigned leaves a body out of the signature where TLS protects it, so that it is not hashed once more.
func (s *Store) unsigned(o *s3.Options) {
	if !s.config.Insecure {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
}
