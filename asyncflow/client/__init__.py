"""The Python client of an asyncflow server: upload, watch, download, retry.

>>> async with Client("http://127.0.0.1:8080") as client:
...     job_id = await client.upload(Path("holiday.jpg"))
...     job = await client.wait(job_id)
...     await client.download(job_id, "thumbnail", Path("thumbnail.jpg"))
"""

from asyncflow.client.api import Client as Client
from asyncflow.client.failures import (
    BadAddress as BadAddress,
    BadToken as BadToken,
    RequestFailed as RequestFailed,
    ServerRefused as ServerRefused,
    ServerUnreachable as ServerUnreachable,
    SourceChanged as SourceChanged,
    UnexpectedAnswer as UnexpectedAnswer,
)
from asyncflow.client.messages import (
    Consumer as Consumer,
    Job as Job,
    Problem as Problem,
    Step as Step,
    Update as Update,
)
from asyncflow.client.session import Patience as Patience
from asyncflow.client.sync import SyncClient as SyncClient
from asyncflow.client.uploading import Progress as Progress
