"""S3-compatible stores through boto3, and the only place that imports it.

In the bucket, below the configured prefix::

    job-1/exam.zip                        a committed file, plain; its record in the object's metadata
    job-1/                                a directory that was made by mkdir (an empty object)
    .wormfs/directory/<sha256(key)>       mode, owner and times of a directory
    .wormfs/check/object                  the test object of start and `wormfs check`
    .wormfs/proof                         when a race for a new name was last won by exactly one
    .wormfs/record/<sha256(key)>/<id>     a whole record that metadata cannot hold
    .wormfs/retention/<sha256(key)>/<entry>/<number>   retention after each change, newest first
    .wormfs/claim/<sha256(key)>/<number>  who completes a multipart upload, newest first
    .wormfs/upload/<instance>/<id>        multipart uploads of one daemon, so that it can remove them
"""
